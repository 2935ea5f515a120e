# A store for backups, and a schedule that fills it, on AWS: `pgstow manual aws` goes through it from an empty folder.
#   terraform init && terraform apply
# Everything costs nothing while it does not run, but for the KMS key and what the bucket holds.
terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

data "aws_caller_identity" "current" {}
data "aws_region" "current" {}
data "aws_partition" "current" {}
