# The same image as a function: for a database that is saved in less than 14 minutes. pgstow-lambda hands pgstow the time
# that is left as its deadline, so that a backup which is too slow ends cleanly and says how far it came.
resource "aws_lambda_function" "backup" {
  count         = var.compute == "lambda" ? 1 : 0
  function_name = "${var.name}-backup"
  role          = aws_iam_role.task["backup"].arn
  package_type  = "Image"
  image_uri     = var.image
  architectures = [var.architecture]
  timeout       = 900
  # Also decides the share of processors: one whole at 1,769 MB.
  memory_size = 2048

  image_config {
    entry_point = ["pgstow-lambda"]
    command     = ["backup"]
  }

  environment {
    variables = merge(local.settings, {
      # The connection string is fetched for each backup, and does not stand in the function's settings.
      LAMBDA_DATABASE_SECRET = var.database_secret
    })
  }

  vpc_config {
    subnet_ids         = var.subnets
    security_group_ids = [aws_security_group.this.id]
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.this.name
  }

  depends_on = [aws_iam_role_policy_attachment.lambda, aws_iam_role_policy.lambda_secret]
}

# A run that failed is reported, not tried again at once: twice more would keep the database busy for an hour.
resource "aws_lambda_function_event_invoke_config" "backup" {
  count                        = length(aws_lambda_function.backup)
  function_name                = aws_lambda_function.backup[0].function_name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 3600
}

# Its log, and its network interface in the VPC.
resource "aws_iam_role_policy_attachment" "lambda" {
  count      = var.compute == "lambda" ? 1 : 0
  role       = aws_iam_role.task["backup"].name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"
}

resource "aws_iam_role_policy" "lambda_secret" {
  count = var.compute == "lambda" ? 1 : 0
  role  = aws_iam_role.task["backup"].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = var.database_secret
    }]
  })
}

resource "aws_scheduler_schedule" "lambda" {
  count               = length(aws_lambda_function.backup)
  name                = "${var.name}-lambda"
  schedule_expression = var.schedule

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_function.backup[0].arn
    role_arn = aws_iam_role.schedule.arn
    input    = jsonencode({ arguments = ["backup"] })
  }
}
