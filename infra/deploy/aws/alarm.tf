# A mail when a task or the function failed. The task `status` fails where no backup happened.
resource "aws_sns_topic" "alarm" {
  name = "${var.name}-alarm"
}

resource "aws_sns_topic_subscription" "alarm" {
  topic_arn = aws_sns_topic.alarm.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

resource "aws_sns_topic_policy" "alarm" {
  arn = aws_sns_topic.alarm.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.alarm.arn
      Principal = { Service = ["events.amazonaws.com", "cloudwatch.amazonaws.com"] }
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

# A task that ended otherwise than by exit status 0 of pgstow, one that could not be started included.
resource "aws_cloudwatch_event_rule" "failed" {
  name = "${var.name}-failed"
  event_pattern = jsonencode({
    source        = ["aws.ecs"]
    "detail-type" = ["ECS Task State Change"]
    detail = {
      clusterArn = [aws_ecs_cluster.this.arn]
      lastStatus = ["STOPPED"]
      "$or" = [
        { containers = { exitCode = [{ "anything-but" = 0 }] } },
        { stopCode = ["TaskFailedToStart"] },
      ]
    }
  })
}

resource "aws_cloudwatch_event_target" "failed" {
  rule = aws_cloudwatch_event_rule.failed.name
  arn  = aws_sns_topic.alarm.arn

  input_transformer {
    input_paths = {
      task   = "$.detail.group"
      reason = "$.detail.stoppedReason"
      log    = "$.detail.taskArn"
    }
    input_template = "\"pgstow: <task> failed: <reason>. Log group ${aws_cloudwatch_log_group.this.name}, task <log>\""
  }
}

resource "aws_cloudwatch_metric_alarm" "lambda" {
  count               = length(aws_lambda_function.backup)
  alarm_name          = "${var.name}-backup-failed"
  alarm_description   = "The log group ${aws_cloudwatch_log_group.this.name} says why."
  namespace           = "AWS/Lambda"
  metric_name         = "Errors"
  dimensions          = { FunctionName = aws_lambda_function.backup[0].function_name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarm.arn]
}
