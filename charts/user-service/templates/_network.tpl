{{/* DNS, as every pod of the release needs it */}}
{{- define "user-service.dnsEgress" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.networkPolicy.dns.namespace }}
      podSelector:
        matchLabels:
          {{- toYaml .Values.networkPolicy.dns.podLabels | nindent 10 }}
    {{- range .Values.networkPolicy.dns.nodeLocalCidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}

{{/* Where the service, its migration and its pruning may go */}}
{{- define "user-service.egress" -}}
{{ include "user-service.dnsEgress" . }}
{{- with .Values.networkPolicy.postgresqlApp }}
- to:
    - podSelector:
        matchLabels:
          app: {{ . }}
  ports:
    - {protocol: TCP, port: {{ $.Values.settings.POSTGRES_PORT | default 5432 | int }}}
    - {protocol: TCP, port: 4143}
{{- end }}
{{- with .Values.networkPolicy.redisApp }}
- to:
    - podSelector:
        matchLabels:
          app: {{ . }}
  ports:
    - {protocol: TCP, port: {{ $.Values.settings.REDIS_PORT | default 6379 | int }}}
    - {protocol: TCP, port: 4143}
{{- end }}
# The broker's ingress: 8080 plain, 8443 with transport encryption
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: knative-eventing
  ports:
    - {protocol: TCP, port: 8080}
    - {protocol: TCP, port: 8443}
# Linkerd's identity, destination and policy controllers
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: linkerd
  ports:
    - {protocol: TCP, port: 8080}
    - {protocol: TCP, port: 8086}
    - {protocol: TCP, port: 8090}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The namespaces of a list, as a peer of a rule */}}
{{- define "user-service.namespaces" -}}
- namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values:
          {{- toYaml . | nindent 10 }}
{{- end -}}
