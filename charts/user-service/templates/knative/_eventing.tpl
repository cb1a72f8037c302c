{{- define "user-service.delivery" -}}
retry: {{ .Values.knative.delivery.retry }}
backoffPolicy: exponential
backoffDelay: {{ .Values.knative.delivery.backoffDelay }}
timeout: {{ .Values.knative.delivery.timeout }}
deadLetterSink:
  ref:
    apiVersion: sinks.knative.dev/v1alpha1
    kind: JobSink
    name: {{ include "user-service.fullname" . }}-dead-letters
{{- end -}}

{{- define "user-service.eventsDoor" -}}
ref:
  apiVersion: serving.knative.dev/v1
  kind: Service
  name: {{ include "user-service.fullname" . }}-events
uri: /events
{{- end -}}
