{{/* What every container of the service has. Arguments: root, configMap, env. */}}
{{- define "user-service.container" -}}
image: {{ include "user-service.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
envFrom:
  - configMapRef:
      name: {{ .configMap }}
{{- $env := concat (.env | default list) (.root.Values.extraEnv | default list) }}
{{- with $env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .root.Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: secrets
    mountPath: /var/run/secrets/user-service
    readOnly: true
{{- end -}}

{{- define "user-service.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
- name: secrets
  # Whole: each key that has the name of a setting is that setting (docs/configuration.md), as DATABASE_URL.
  secret:
    secretName: {{ .Values.secret.name }}
    defaultMode: 0444
{{- end -}}

{{/* What every pod of the service has. Arguments: root, serviceAccountName. */}}
{{- define "user-service.pod" -}}
serviceAccountName: {{ .serviceAccountName }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What every pod but Knative's own has besides */}}
{{- define "user-service.scheduling" -}}
{{- with .Values.podSecurityContext -}}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* A Job's pod. Arguments: root, name, command (of user-service), configMap, serviceAccountName. */}}
{{- define "user-service.jobPod" -}}
restartPolicy: Never
{{ include "user-service.pod" . }}
{{ include "user-service.scheduling" .root }}
containers:
  - name: {{ .command }}
    args: [{{ .command }}]
    {{- include "user-service.container" . | nindent 4 }}
volumes:
  {{- include "user-service.volumes" .root | nindent 2 }}
{{- end -}}

{{- define "user-service.livenessProbe" -}}
httpGet: {path: /api/health/live, port: 3002}
periodSeconds: 10
timeoutSeconds: 3
failureThreshold: 3
{{- end -}}
