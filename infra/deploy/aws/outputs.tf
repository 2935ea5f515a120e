output "settings" {
  description = "The settings for a shell of yours, to list and restore."
  value       = join("\n", [for name, value in local.settings : "export ${name}=${value}"])
}

output "security_group" {
  description = "Let it into the database's own security group, port 5432."
  value       = aws_security_group.this.id
}

output "role" {
  description = "The role of the backups; for the workflow of GitHub, where that was asked for."
  value       = aws_iam_role.task["backup"].arn
}

output "run" {
  description = "Starts a backup now."
  value = var.compute == "lambda" ? "aws lambda invoke --function-name ${var.name}-backup --cli-read-timeout 900 /dev/stdout" : join(" ", [
    "aws ecs run-task --cluster ${var.name} --task-definition ${var.name}-backup --launch-type FARGATE --network-configuration",
    "'awsvpcConfiguration={subnets=[${join(",", var.subnets)}],securityGroups=[${aws_security_group.this.id}],assignPublicIp=${var.public_ip ? "ENABLED" : "DISABLED"}}'",
  ])
}
