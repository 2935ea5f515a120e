variable "bucket" {
  description = "Name of the bucket to make; unique in the world."
  type        = string
}

variable "prefix" {
  description = "Prefix of this database's backups in the bucket. One prefix belongs to one database."
  type        = string
  default     = "app/"

  validation {
    condition     = can(regex("^[^/].*/$", var.prefix))
    error_message = "The prefix ends with a slash, and does not begin with one."
  }
}

variable "name" {
  description = "Name of what is made here besides the bucket."
  type        = string
  default     = "pgstow"
}

variable "image" {
  description = "The image, in a private ECR repository of this account and region: ACCOUNT.dkr.ecr.REGION.amazonaws.com/pgstow:0.1.0"
  type        = string
}

variable "architecture" {
  description = "Architecture of the image: arm64 costs a fifth less."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "One of arm64 and x86_64."
  }
}

variable "database_secret" {
  description = "ARN of a secret in Secrets Manager whose text is the connection string, DATABASE_URL."
  type        = string
}

variable "compute" {
  description = "Where the backup runs: lambda (done in 14 minutes, cheapest) or fargate (no limit)."
  type        = string
  default     = "fargate"

  validation {
    condition     = contains(["lambda", "fargate"], var.compute)
    error_message = "One of lambda and fargate."
  }
}

variable "vpc" {
  description = "The VPC in which the database is reached."
  type        = string
}

variable "subnets" {
  description = "Subnets of that VPC with a way to the database, to S3 (a gateway endpoint costs nothing), and to Secrets Manager, ECR and CloudWatch Logs (NAT, or interface endpoints)."
  type        = list(string)
}

variable "public_ip" {
  description = "Give the tasks of Fargate a public address: needed in public subnets without NAT."
  type        = bool
  default     = false
}

variable "schedule" {
  description = "When the backup runs, as EventBridge Scheduler reads it."
  type        = string
  default     = "cron(17 2 * * ? *)"
}

variable "weekly" {
  description = "When verify, prune and drill run."
  type        = string
  default     = "cron(17 4 ? * SUN *)"
}

variable "keep" {
  description = "The rules of `pgstow prune`."
  type        = map(string)
  default = {
    PGSTOW_KEEP_DAILY   = "14"
    PGSTOW_KEEP_WEEKLY  = "5"
    PGSTOW_KEEP_MONTHLY = "12"
  }
}

variable "lock_days" {
  description = "Days for which nobody can delete a backup without a permission of its own (Object Lock, GOVERNANCE)."
  type        = number
  default     = 14
}

variable "drill_image" {
  description = "The throw-away server of the weekly drill: the major version of yours or newer, with the extensions that you use."
  type        = string
  default     = "public.ecr.aws/docker/library/postgres:17"
}

variable "drill_storage" {
  description = "Disk of the weekly drill in GiB (21 to 200): the restored database with its indexes."
  type        = number
  default     = 50
}

variable "alarm_email" {
  description = "Who gets a mail when a backup or a drill fails or does not happen. AWS asks the address to confirm."
  type        = string
}

variable "github_repository" {
  description = "OWNER/NAME of a repository whose workflows on its default branch may write backups, by OIDC. Empty: none."
  type        = string
  default     = ""
}

variable "github_branch" {
  description = "The branch of that repository whose workflows may do so."
  type        = string
  default     = "main"
}
