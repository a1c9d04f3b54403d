{{- define "keyturn.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "keyturn.selector" -}}
app.kubernetes.io/name: keyturn
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "keyturn.labels" -}}
{{ include "keyturn.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "keyturn.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "keyturn.name" .) -}}
{{- end -}}

{{- define "keyturn.user" -}}
{{- printf "system:serviceaccount:%s:%s" .Release.Namespace (include "keyturn.serviceAccount" .) -}}
{{- end -}}

{{/* Where the pods listen, as it goes in front of a port. Values of an earlier chart lack it. */}}
{{- define "keyturn.address" -}}
{{- $address := (.Values.listen).address | default "::" -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end -}}
{{- end -}}

{{- define "keyturn.subject" -}}
- kind: ServiceAccount
  name: {{ include "keyturn.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* Cluster-wide names hold the namespace, so that releases of one name in two namespaces do not meet. */}}
{{- define "keyturn.clusterName" -}}
{{- if eq .Release.Namespace (include "keyturn.name" .) -}}
{{- include "keyturn.name" . -}}
{{- else -}}
{{- printf "%s-%s" .Release.Namespace (include "keyturn.name" .) | trunc 100 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* A list of texts as CEL writes it. */}}
{{- define "keyturn.celList" -}}
[{{ range $i, $text := . }}{{ if $i }}, {{ end }}'{{ $text }}'{{ end }}]
{{- end -}}

{{/* What the operator may do in each namespace that it serves. */}}
{{- define "keyturn.namespacedRules" -}}
- apiGroups: [keyturn.dev]
  resources: [externalsecrets, secretstores]
  verbs: [get, list, watch]
- apiGroups: [keyturn.dev]
  resources: [externalsecrets/status, secretstores/status]
  verbs: [patch]
# For blockOwnerDeletion in the ownerReferences of Secrets.
- apiGroups: [keyturn.dev]
  resources: [externalsecrets/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get]
- apiGroups: [""]
  resources: [serviceaccounts/token]
  verbs: [create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Restarts: an annotation of the pod template; a policy holds the patches to it.
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, list, watch, patch]
- apiGroups: [argoproj.io]
  resources: [rollouts]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- if .Values.restart.evict }}
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
{{- end }}
{{- end -}}
