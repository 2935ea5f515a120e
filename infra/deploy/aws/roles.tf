# Two roles for two jobs, with the policies that `pgstow doctor` prints (a test compares them):
# backup writes and cannot delete or read backups; keeper verifies, prunes and drills, and does not know the database.
locals {
  roles = toset(["backup", "keeper"])
  # Settings of both.
  settings = {
    PGSTOW_STORE                 = "s3://${aws_s3_bucket.store.id}/${trimsuffix(var.prefix, "/")}"
    PGSTOW_S3_REGION             = data.aws_region.current.region
    PGSTOW_S3_SSE                = "aws:kms"
    PGSTOW_S3_SSE_KMS_KEY_ID     = aws_kms_key.store.arn
    PGSTOW_S3_OBJECT_LOCK_MODE   = "GOVERNANCE"
    PGSTOW_S3_OBJECT_LOCK_RETAIN = "${var.lock_days}d"
    PGSTOW_INCOMPLETE_OLDER_THAN = "24h"
    PGSTOW_LOG_FORMAT            = "json"
    PGSTOW_PROGRESS              = "never"
  }
}

resource "aws_iam_policy" "store" {
  for_each = local.roles
  name     = "${var.name}-${each.key}-store"
  policy = templatefile("${path.module}/policies/${each.key}.json.tftpl", {
    bucket = aws_s3_bucket.store.id
    prefix = var.prefix
    key    = aws_kms_key.store.arn
  })
}

resource "aws_iam_role" "task" {
  for_each = local.roles
  name     = "${var.name}-${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Effect    = "Allow"
        Action    = "sts:AssumeRole"
        Principal = { Service = "ecs-tasks.amazonaws.com" }
        Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
      }],
      each.key == "backup" && var.compute == "lambda" ? [{
        Effect    = "Allow"
        Action    = "sts:AssumeRole"
        Principal = { Service = "lambda.amazonaws.com" }
      }] : [],
      each.key == "backup" && var.github_repository != "" ? [{
        Effect    = "Allow"
        Action    = "sts:AssumeRoleWithWebIdentity"
        Principal = { Federated = one(aws_iam_openid_connect_provider.github[*].arn) }
        Condition = {
          StringEquals = {
            "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
            "token.actions.githubusercontent.com:sub" = "repo:${var.github_repository}:ref:refs/heads/${var.github_branch}"
          }
        }
      }] : []
    )
  })
}

resource "aws_iam_role_policy_attachment" "store" {
  for_each   = local.roles
  role       = aws_iam_role.task[each.key].name
  policy_arn = aws_iam_policy.store[each.key].arn
}

# One for each account: import it where it is there already.
resource "aws_iam_openid_connect_provider" "github" {
  count          = var.github_repository == "" ? 0 : 1
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

# Starts the tasks: pulls the image, writes the log, and hands the connection string to the backup.
resource "aws_iam_role" "start" {
  name = "${var.name}-start"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "start" {
  role       = aws_iam_role.start.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "aws_iam_role_policy" "start_secret" {
  role = aws_iam_role.start.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = var.database_secret
    }]
  })
}

# The schedule may start these tasks and this function, and nothing else.
resource "aws_iam_role" "schedule" {
  name = "${var.name}-schedule"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "scheduler.amazonaws.com" }
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "schedule" {
  role = aws_iam_role.schedule.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Effect    = "Allow"
          Action    = "ecs:RunTask"
          Resource  = [for task in values(aws_ecs_task_definition.task) : "${task.arn_without_revision}:*"]
          Condition = { ArnLike = { "ecs:cluster" = aws_ecs_cluster.this.arn } }
        },
        {
          Effect    = "Allow"
          Action    = "iam:PassRole"
          Resource  = concat([aws_iam_role.start.arn], [for role in values(aws_iam_role.task) : role.arn])
          Condition = { StringLike = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
        },
      ],
      [for function in aws_lambda_function.backup : {
        Effect   = "Allow"
        Action   = "lambda:InvokeFunction"
        Resource = function.arn
      }]
    )
  })
}
