{{/*
Waivers of kube-score, checkov and polaris, as k8s-common/components/linter-waivers has them, with the same reasons: uid
1001 is required of this service; an image by digest is the same wherever it was pulled. Arguments: root, ignored (further
checks of kube-score), exempt (further checks of polaris).
*/}}
{{- define "user-service.waivers" -}}
{{- if .root.Values.linterWaivers -}}
kube-score/ignore: {{ concat (list "container-image-pull-policy" "container-security-context-user-group-id") (.ignored | default list) | join "," }}
checkov.io/skip1: CKV_K8S_40=uid 1001 is required of this service
checkov.io/skip2: CKV_K8S_15=an image by digest is the same wherever it was pulled
checkov.io/skip3: CKV_K8S_43=the digest is given by the release
polaris.fairwinds.com/pullPolicyNotAlways-exempt: "true"
polaris.fairwinds.com/priorityClassNotSet-exempt: "true"
{{- range .exempt }}
polaris.fairwinds.com/{{ . }}-exempt: "true"
{{- end }}
{{- end -}}
{{- end -}}

{{/* The databases of localData: one replica each, for development, with images by tag. Arguments: root, ignored. */}}
{{- define "user-service.localDataWaivers" -}}
{{- if .root.Values.linterWaivers -}}
annotations:
  kube-score/ignore: {{ prepend .ignored "container-image-pull-policy" | join "," }}
  checkov.io/skip1: CKV_K8S_15=a laptop need not pull a tag again at each start
  checkov.io/skip2: CKV_K8S_43=no digest of it was looked up; for development only
  {{- range list "pullPolicyNotAlways" "priorityClassNotSet" "topologySpreadConstraint" "deploymentMissingReplicas" "missingPodDisruptionBudget" }}
  polaris.fairwinds.com/{{ . }}-exempt: "true"
  {{- end }}
{{- end -}}
{{- end -}}
