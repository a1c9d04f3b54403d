{{/*
Values that the templates cannot do without, as values.yaml has them. `helm upgrade --reuse-values` brings the values of the
release before, which lacks those that are new; each file of templates therefore begins with keyturn.complete.
*/}}
{{- define "keyturn.defaults" -}}
aws: {region: "", roleArn: "", periodicReads: true}
scope: {namespaces: []}
secretStore: {allowOperatorIdentity: false}
clusterSecretStore: {requireScope: true}
minRefreshInterval: 30s
statusWritesPerSecond: 50
tokenAudiences: [sts.amazonaws.com]
tokens: {enabled: true}
protectedNamespaces: [kube-system]
neverCopied: []
restart: {default: Disabled, maxConcurrent: 20, maxConcurrentPerNamespace: 5, evict: false}
alerts: {url: "", format: keyturn, existingSecret: {name: "", key: url}}
admissionPolicies: {enabled: true}
rbac: {create: true, userRoles: true}
crds: {install: true}
listen: {address: ""}
networkPolicy: {enabled: false, metricsFrom: []}
log: {level: info, format: json, audit: true}
replicas: 2
image: {repository: "", tag: "", digest: "", pullPolicy: IfNotPresent}
serviceAccount: {create: true, name: "", annotations: {}}
podSecurityContext: {}
containerSecurityContext: {}
podDisruptionBudget: {enabled: true}
{{- end -}}

{{- define "keyturn.complete" -}}
{{- include "keyturn.fill" (dict "values" .Values "defaults" (include "keyturn.defaults" . | fromYaml)) -}}
{{- end -}}

{{/* Sets in the values what is missing there. */}}
{{- define "keyturn.fill" -}}
{{- $values := .values -}}
{{- range $name, $default := .defaults -}}
{{- $value := index $values $name -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := set $values $name $default -}}
{{- else if and (kindIs "map" $value) (kindIs "map" $default) -}}
{{- include "keyturn.fill" (dict "values" $value "defaults" $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
A release names its image, by digest, in an annotation of the chart and not in the values: `helm upgrade --reuse-values`
would keep the digest of the release before.
*/}}
{{- define "keyturn.image" -}}
{{- $released := index (.Chart.Annotations | default dict) "keyturn.dev/image" | default "keyturn" -}}
{{- with .Values.image -}}
{{- if or .repository .tag .digest (not (contains "@" $released)) -}}
{{- .repository | default (regexReplaceAll "@.*" $released "") -}}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- else -}}
{{- $released -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "keyturn.name" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/*
OpenShift gives each namespace a range of ids and refuses pods that ask for others.
fsGroup lets the process read the projected token of IRSA.
*/}}
{{- define "keyturn.podSecurityContext" -}}
{{- $context := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if not (.Capabilities.APIVersions.Has "security.openshift.io/v1") -}}
{{- range $id := list "runAsUser" "runAsGroup" "fsGroup" -}}
{{- $_ := set $context $id 65532 -}}
{{- end -}}
{{- end -}}
{{- include "keyturn.merged" (list $context .Values.podSecurityContext) -}}
{{- end -}}

{{- define "keyturn.containerSecurityContext" -}}
{{- $context := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- include "keyturn.merged" (list $context .Values.containerSecurityContext) -}}
{{- end -}}

{{/* The fields of two maps as YAML. Those of the second win; null leaves a field out. */}}
{{- define "keyturn.merged" -}}
{{- $fields := first . -}}
{{- range $name, $value := last . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $fields $name -}}
{{- else -}}
{{- $_ := set $fields $name $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $fields -}}
{{- end -}}

{{- define "keyturn.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default "keyturn" | trunc 63 | trimSuffix "-" }}
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
{{- if .Values.tokens.enabled }}
- apiGroups: [""]
  resources: [serviceaccounts/token]
  verbs: [create]
{{- end }}
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
