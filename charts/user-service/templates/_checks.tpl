{{/* What no schema can say: values that contradict each other. Each message names the remedy. */}}
{{- define "user-service.checks" -}}
{{- $knative := eq .Values.mode "knative" -}}
{{- if and $knative (or .Values.ingress.enabled .Values.httpRoute.enabled) -}}
{{- fail "Knative routes by its own gateway. Disable ingress and httpRoute, and use a DomainMapping for a host name of your own." -}}
{{- end -}}
{{- if and .Values.localData.enabled (eq .Values.settings.APP_ENV "production") -}}
{{- fail "localData has public passwords, which the service refuses in production. Set settings.APP_ENV=development, or disable localData and create the Secret." -}}
{{- end -}}
{{- if and .Values.localData.enabled .Values.externalSecret.enabled -}}
{{- fail "localData brings a Secret of its own. Disable one of localData and externalSecret." -}}
{{- end -}}
{{- if and (not $knative) .Values.verticalPodAutoscaler.enabled (ne .Values.verticalPodAutoscaler.updateMode "Off") .Values.autoscaling.enabled (eq .Values.autoscaling.metric "resources") -}}
{{- fail "An acting VPA moves the requests whose share the HPA scales on. Set autoscaling.metric=in-flight, or verticalPodAutoscaler.updateMode=Off." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled needs ingress.hosts, such as [{host: users.company.test, paths: [/api]}]." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs, the Gateway that it attaches to." -}}
{{- end -}}
{{- if and $knative .Values.knative.canary.candidatePercent (not .Values.knative.canary.stableRevision) -}}
{{- fail "knative.canary.candidatePercent needs knative.canary.stableRevision, the revision that has the rest of the traffic (kubectl get revisions)." -}}
{{- end -}}
{{- if and $knative (eq .Values.knative.broker.class "RabbitMQBroker") .Values.knative.eventPolicy.enabled -}}
{{- fail "RabbitMQ's broker heeds no EventPolicy. Disable knative.eventPolicy, or take another knative.broker.class." -}}
{{- end -}}
{{- if and $knative (eq .Values.knative.broker.class "RabbitMQBroker") .Values.knative.broker.rabbitmq.connectionSecret .Values.networkPolicy.enabled (not .Values.knative.broker.rabbitmq.extraEgress) -}}
{{- fail "A RabbitMQ outside the cluster is not reached: knative.broker.rabbitmq.connectionSecret needs knative.broker.rabbitmq.extraEgress, such as [{to: [{ipBlock: {cidr: 10.20.0.0/16}}], ports: [{protocol: TCP, port: 5672}]}]." -}}
{{- end -}}
{{- $pods := 0 -}}
{{- if $knative -}}
{{- $pods = add .Values.knative.api.maxScale .Values.knative.events.maxScale -}}
{{- else if .Values.autoscaling.enabled -}}
{{- $pods = add .Values.autoscaling.maxReplicas 1 -}}
{{- else -}}
{{- $pods = add (.Values.replicas | default 1) 1 -}}
{{- end -}}
{{- $pods = add $pods (ternary 1 0 .Values.migration.enabled) (ternary 1 0 .Values.prune.enabled) -}}
{{- $pool := int .Values.settings.POSTGRES_MAX_CONNECTIONS -}}
{{- $most := mul $pods $pool -}}
{{- if gt (int $most) (sub (int .Values.postgresMaxConnections) 20 | int) -}}
{{- fail (printf "%d pods with %d connections each can open %d, and postgresMaxConnections is %d, of which 20 must stay free. Lower the number of pods or settings.POSTGRES_MAX_CONNECTIONS, or raise PostgreSQL's max_connections and this value." (int $pods) $pool (int $most) (int .Values.postgresMaxConnections)) -}}
{{- end -}}
{{- end -}}
