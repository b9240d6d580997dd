{{- define "turnout.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "turnout.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "turnout.labels" -}}
{{ include "turnout.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "turnout.port" -}}
{{ regexFind "[0-9]+$" .Values.config.listen }}
{{- end }}

{{/* The HTTPRoutes whose weights the gateway writes: names by namespace. */}}
{{- define "turnout.httproutes" -}}
{{- $found := dict }}
{{- range $route, $section := .Values.config.routes | default dict }}
{{- $engine := get ($.Values.config.engines | default dict) ($section.engine | default "") | default dict }}
{{- if and (eq ($engine.type | default "") "kubernetes") (not $engine.server) }}
{{- $parts := splitList "/" ($section.httproute | default $route) }}
{{- $namespace := ternary (first $parts) ($engine.namespace | default $.Release.Namespace) (eq (len $parts) 2) }}
{{- $_ := set $found $namespace (append (get $found $namespace | default list) (last $parts)) }}
{{- end }}
{{- end }}
{{- if $found }}{{ toYaml $found }}{{ end }}
{{- end }}

{{/* "yes" where the pod's own volume holds what must not be lost. */}}
{{- define "turnout.stateful" -}}
{{- if or .Values.persistence.enabled (hasPrefix "sqlite:" .Values.config.store) }}yes{{ end }}
{{- end }}

{{/* Refuses what would start and then lose something. */}}
{{- define "turnout.validate" -}}
{{- if not .Values.config.routes }}
{{- fail "the gateway would serve nothing: write config.backends and config.routes, as in values.yaml" }}
{{- end }}
{{- if and (hasPrefix "sqlite:" .Values.config.store) (gt (int .Values.replicas) 1) }}
{{- fail "an SQLite store belongs to one pod: set replicas to 1, or store to redis://…" }}
{{- end }}
{{- if and (hasPrefix "sqlite:" .Values.config.store) (not (hasPrefix "sqlite:////var/lib/turnout/" .Values.config.store)) }}
{{- fail "the volume is at /var/lib/turnout: write store: sqlite:////var/lib/turnout/turnout.db" }}
{{- end }}
{{- $grace := dig "shutdown" "grace" "30s" .Values.config | toString }}
{{- $unit := regexFind "[a-z]+$" $grace }}
{{- $seconds := mulf (regexFind "^[0-9.]+" $grace | float64) (get (dict "us" 0.000001 "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit | default 1.0) }}
{{- /* Kubernetes counts the sleep of preStop, 3 s, as part of the pod's time. */}}
{{- if le (float64 .Values.terminationGracePeriodSeconds) (addf $seconds 3) }}
{{- fail (printf "terminationGracePeriodSeconds (%d) must be above shutdown.grace (%s) and the 3 s before it" (int .Values.terminationGracePeriodSeconds) $grace) }}
{{- end }}
{{- end }}

{{- define "turnout.pod" -}}
metadata:
  labels:
    {{- include "turnout.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: {{ not (empty (include "turnout.httproutes" .)) }}
  {{- if include "turnout.httproutes" . }}
  serviceAccountName: {{ include "turnout.name" . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: turnout
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["run", "--config", "/etc/turnout/turnout.yaml", "--workers", "{{ .Values.workers }}"]
      ports: [{name: http, containerPort: {{ include "turnout.port" . }}}]
      {{- with .Values.secrets }}
      envFrom:
        {{- range . }}
        - secretRef: {name: {{ . | quote }}}
        {{- end }}
      {{- end }}
      # A pod that drains is not ready from the first moment; it stays alive until its requests have ended.
      livenessProbe: {httpGet: {path: /-/healthz, port: http}, periodSeconds: 10, timeoutSeconds: 3, failureThreshold: 6}
      readinessProbe: {httpGet: {path: /-/readyz, port: http}, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 2}
      startupProbe: {httpGet: {path: /-/healthz, port: http}, periodSeconds: 1, failureThreshold: 60}
      # Endpoints are withdrawn while this sleeps, so that no connection is refused.
      lifecycle: {preStop: {exec: {command: ["sleep", "3"]}}}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        # The directory, not the file: Kubernetes updates a mounted directory in place.
        - {name: config, mountPath: /etc/turnout, readOnly: true}
        - {name: data, mountPath: /var/lib/turnout}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {name: config, configMap: {name: {{ include "turnout.name" . }}}}
    - {name: tmp, emptyDir: {}}
    {{- if not (include "turnout.stateful" .) }}
    - {name: data, emptyDir: {}}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
