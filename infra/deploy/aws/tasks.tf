# The tasks of Fargate: backup (where compute is fargate), status, and week: verify, prune, drill into a PostgreSQL beside.
resource "aws_ecs_cluster" "this" {
  name = var.name
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/pgstow/${var.name}"
  retention_in_days = 90
}

# No connection comes in; out go PostgreSQL, the store, and AWS's own interfaces.
resource "aws_security_group" "this" {
  name        = var.name
  description = "pgstow: nothing comes in"
  vpc_id      = var.vpc
}

resource "aws_vpc_security_group_egress_rule" "this" {
  for_each          = toset(["443", "5432"])
  security_group_id = aws_security_group.this.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = tonumber(each.key)
  to_port           = tonumber(each.key)
}

locals {
  log = {
    logDriver = "awslogs"
    options = {
      "awslogs-group"         = aws_cloudwatch_log_group.this.name
      "awslogs-region"        = data.aws_region.current.region
      "awslogs-stream-prefix" = "task"
    }
  }
  contained = {
    image                  = var.image
    essential              = true
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    stopTimeout            = 60
    logConfiguration       = local.log
  }
  tasks = {
    backup = {
      role    = "backup"
      memory  = 1024
      storage = 21
      container = merge(local.contained, {
        name        = "pgstow"
        entryPoint  = ["pgstow-nightly"]
        command     = ["backup"]
        secrets     = [{ name = "DATABASE_URL", valueFrom = var.database_secret }]
        environment = [for name, value in merge(local.settings, { PGSTOW_DEADLINE = "6h" }) : { name = name, value = value }]
      })
    }
    status = {
      role    = "backup"
      memory  = 512
      storage = 21
      container = merge(local.contained, {
        name        = "pgstow"
        entryPoint  = ["pgstow-nightly"]
        command     = ["status"]
        environment = [for name, value in local.settings : { name = name, value = value }]
      })
    }
    week = {
      role    = "keeper"
      memory  = 4096
      storage = var.drill_storage
      container = merge(local.contained, {
        name       = "pgstow"
        entryPoint = ["pgstow-nightly"]
        command    = ["verify", "prune", "drill"]
        dependsOn  = [{ containerName = "scratch", condition = "HEALTHY" }]
        environment = [for name, value in merge(local.settings, var.keep, {
          PGSTOW_DRILL_ON = "postgresql://postgres@127.0.0.1:5432/postgres"
        }) : { name = name, value = value }]
      })
    }
  }
  # Thrown away with the task. Nobody outside of it reaches it.
  scratch = {
    name             = "scratch"
    image            = var.drill_image
    essential        = false
    command          = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "full_page_writes=off"]
    environment      = [{ name = "POSTGRES_HOST_AUTH_METHOD", value = "trust" }]
    logConfiguration = local.log
    healthCheck = {
      command  = ["CMD-SHELL", "pg_isready -q -h 127.0.0.1 -U postgres"]
      interval = 5
      retries  = 10
    }
  }
}

resource "aws_ecs_task_definition" "task" {
  for_each                 = local.tasks
  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = each.value.memory > 2048 ? 1024 : each.value.memory > 512 ? 512 : 256
  memory                   = each.value.memory
  execution_role_arn       = aws_iam_role.start.arn
  task_role_arn            = aws_iam_role.task[each.value.role].arn
  container_definitions    = jsonencode(concat([each.value.container], each.key == "week" ? [local.scratch] : []))

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture == "arm64" ? "ARM64" : "X86_64"
  }

  ephemeral_storage {
    size_in_gib = each.value.storage
  }
}

locals {
  schedules = merge(
    {
      # Six hours after a backup at its usual time: that it happened at all is looked at by somebody else.
      status = "cron(17 8 * * ? *)"
      week   = var.weekly
    },
    var.compute == "fargate" ? { backup = var.schedule } : {}
  )
}

resource "aws_scheduler_schedule" "task" {
  for_each            = local.schedules
  name                = "${var.name}-${each.key}"
  schedule_expression = each.value

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_ecs_cluster.this.arn
    role_arn = aws_iam_role.schedule.arn

    ecs_parameters {
      task_definition_arn = aws_ecs_task_definition.task[each.key].arn
      launch_type         = "FARGATE"

      network_configuration {
        subnets          = var.subnets
        security_groups  = [aws_security_group.this.id]
        assign_public_ip = var.public_ip
      }
    }

    retry_policy {
      maximum_retry_attempts       = 2
      maximum_event_age_in_seconds = 3600
    }
  }
}
