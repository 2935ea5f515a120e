{{/* Common parts of the two CronJobs. */}}

{{- define "pgstow.name" -}}
{{- if contains "pgstow" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-pgstow" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "pgstow.selector" -}}
app.kubernetes.io/name: pgstow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pgstow.labels" -}}
{{ include "pgstow.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "pgstow.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "pgstow.contained" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "pgstow.envFrom" -}}
- configMapRef: { name: {{ include "pgstow.name" . }} }
{{- with .Values.store.secret }}
- secretRef: { name: {{ . }}, optional: true }
{{- end }}
{{- end }}

{{/* A variable from a key of the operator's Secret. */}}
{{- define "pgstow.key" -}}
{ name: {{ index . 0 }}, valueFrom: { secretKeyRef: { name: {{ index . 1 }}, key: {{ index . 2 }} } } }
{{- end }}

{{- define "pgstow.database" -}}
{{- $secret := required "database.secret: name the Secret" .Values.database.secret }}
{{- $from := .Values.database.from }}
{{- if eq $from "url" }}
- {{ include "pgstow.key" (list "DATABASE_URL" $secret "DATABASE_URL") }}
{{- else if eq $from "zalando" }}
- { name: PGHOST, value: {{ required "database.host: name the cluster" .Values.database.host }} }
- { name: PGDATABASE, value: {{ required "database.name: name the database" .Values.database.name }} }
{{- else }}
- {{ include "pgstow.key" (list "PGHOST" $secret "host") }}
- {{ include "pgstow.key" (list "PGPORT" $secret "port") }}
- {{ include "pgstow.key" (list "PGDATABASE" $secret "dbname") }}
{{- end }}
{{- if ne $from "url" }}
- {{ include "pgstow.key" (list "PGUSER" $secret (ternary "user" "username" (eq $from "crunchy"))) }}
- {{ include "pgstow.key" (list "PGPASSWORD" $secret "password") }}
- { name: PGSSLMODE, value: {{ .Values.database.sslmode }} }
{{- end }}
{{- end }}
