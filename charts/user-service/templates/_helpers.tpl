{{/* The name of the release's objects: `user-service` for a release of that name. */}}
{{- define "user-service.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "user-service" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-user-service" (.Release.Name | trunc 27 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* The service account of the pods that serve and prune */}}
{{- define "user-service.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "user-service.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The migration runs before the release's own service account exists, so it has one of its own. */}}
{{- define "user-service.migrateServiceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- printf "%s-migrate" (include "user-service.fullname" .) -}}
{{- else -}}
{{- include "user-service.serviceAccountName" . -}}
{{- end -}}
{{- end -}}

{{- define "user-service.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- with .Values.image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* Labels that pods have too. Arguments: root, component, and app if the object has that label. */}}
{{- define "user-service.podLabels" -}}
{{- with .app -}}
app: {{ . }}
{{ end -}}
app.kubernetes.io/name: user-service
app.kubernetes.io/part-of: {{ .root.Values.partOf }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Helm's own labels change with the chart's version, so pods do not have them. */}}
{{- define "user-service.helmLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "user-service.labels" -}}
{{ include "user-service.podLabels" . }}
{{ include "user-service.helmLabels" .root }}
{{- end -}}

{{/* Name, namespace and labels of an object. Arguments: root, name, component, app. */}}
{{- define "user-service.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "user-service.labels" . | nindent 2 }}
{{- end -}}

{{/* The pods that serve on plain Kubernetes */}}
{{- define "user-service.selector" -}}
app: {{ include "user-service.fullname" . }}
app.kubernetes.io/component: api
{{- end -}}

{{/* The hooks that run the migration */}}
{{- define "user-service.migrateHooks" -}}
{{- if .Values.localData.enabled }}post-install,pre-upgrade{{ else }}pre-install,pre-upgrade{{ end -}}
{{- end -}}

{{/* Pods that roll when a setting changes: the ConfigMap keeps its name */}}
{{- define "user-service.configChecksum" -}}
{{- .Values.settings | toJson | sha256sum -}}
{{- end -}}

{{/* What a Prometheus without its operator finds pods by */}}
{{- define "user-service.scrapeAnnotations" -}}
{{- if and .Values.monitoring.enabled (not .Values.monitoring.operator) -}}
prometheus.io/scrape: "true"
prometheus.io/port: "3002"
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

{{/* A file of the folder `files` that finds the objects of this release, if it is called otherwise. Arguments: root, file. */}}
{{- define "user-service.monitoringFile" -}}
{{- $full := include "user-service.fullname" .root -}}
{{- $text := .root.Files.Get (printf "files/%s" .file) -}}
{{- if contains "user-service" $full -}}
{{- $text -}}
{{- else -}}
{{- $text | replace "((.+-)?user-service)" (printf "((.+-)?user-service|%s)" $full) -}}
{{- end -}}
{{- end -}}
