#!/usr/bin/env bash
# Deploy the service to a cluster: check, migrate, apply, wait, smoke-test; put the former version back if that fails.
#   scripts/deploy-k8s.sh [--stack knative|fallback|auto] [--overlay dev|production] [--image IMAGE]
#                         [--context NAME] [--dry-run]
# auto (the default) takes Knative where the cluster has it; the overlay is dev unless said otherwise. --dry-run prints
# the plan and changes nothing. Production wants an image by digest. Where production's Secret is missing it is made from
# POSTGRES_USER_PASSWORD and REDIS_PASSWORD of the environment, with ENCRYPTION_KEY and INTERNAL_API_KEY new if unset.
# scripts/deploy-k8s.ps1 does the same with PowerShell; a test compares their plans.
set -euo pipefail
cd "$(dirname "$0")/.."

stack=auto overlay=dev image='' context='' dry_run=''
namespace=microservices
gateway=${KNATIVE_GATEWAY:-kourier-system/kourier-internal}

fail() {
  echo "deploy-k8s: $*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case "$1" in
    --stack) stack=${2:?--stack needs a value}; shift 2 ;;
    --overlay) overlay=${2:?--overlay needs a value}; shift 2 ;;
    --image) image=${2:?--image needs a value}; shift 2 ;;
    --context) context=${2:?--context needs a value}; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "unknown argument '$1'; see scripts/deploy-k8s.sh --help" ;;
  esac
done
case "$stack" in knative | fallback | auto) ;; *) fail "--stack is knative, fallback or auto, not '$stack'" ;; esac
case "$overlay" in dev | production) ;; *) fail "--overlay is dev or production, not '$overlay'" ;; esac
for program in kubectl python3; do
  command -v "$program" >/dev/null || fail "$program is not on PATH; install it"
done

[ -n "$context" ] || context=$(kubectl config current-context 2>/dev/null) ||
  fail "no cluster: set KUBECONFIG, or name a context with --context (kubectl config get-contexts lists them)"
if [ "$stack" = auto ]; then
  served=$(kubectl --context "$context" api-versions) || fail "the cluster of context '$context' does not answer"
  stack=fallback
  case "$served" in *serving.knative.dev/v1*) stack=knative ;; esac
fi

# One step a line. What begins with kubectl is run as it stands; the rest are the functions below.
plan() { # plan STACK OVERLAY IMAGE CONTEXT
  local stack=$1 overlay=$2 image=$3 context=$4 folder=k8s-fallback
  local kubectl="kubectl --context $context"
  if [ "$stack" = knative ]; then folder=knative; fi
  echo "render $folder/overlays/$overlay"
  if [ -n "$image" ]; then echo "set-image $image"; fi
  if [ "$overlay" = production ]; then
    echo "refuse-placeholders"
    echo "require-digest"
  fi
  echo "require-kinds"
  echo "$kubectl apply --filename rendered.yaml --selector app.kubernetes.io/component=setup"
  if [ "$overlay" = production ]; then
    echo "ensure-secret microservices-secrets"
  else
    echo "$kubectl rollout status statefulset/postgres-user --namespace microservices --timeout 180s"
    echo "$kubectl rollout status deployment/redis --namespace microservices --timeout 180s"
  fi
  echo "$kubectl delete job user-service-migrate --namespace microservices --ignore-not-found"
  echo "$kubectl apply --filename rendered.yaml --selector app.kubernetes.io/component=migrate"
  echo "wait-migration user-service-migrate"
  if [ "$stack" = knative ]; then
    echo "remember services.serving.knative.dev/user-service"
    echo "remember services.serving.knative.dev/user-service-events"
  else
    echo "remember deployment/user-service-deployment"
  fi
  echo "$kubectl apply --filename rendered.yaml --selector app.kubernetes.io/component!=setup,app.kubernetes.io/component!=migrate"
  if [ "$stack" = knative ]; then
    echo "wait-revision user-service"
    echo "wait-revision user-service-events"
  else
    echo "$kubectl rollout status deployment/user-service-deployment --namespace microservices --timeout 300s"
    if [ "$overlay" = production ]; then echo "wait-replicas 3"; fi
  fi
  echo "smoke-test"
}

steps=$(plan "$stack" "$overlay" "$image" "$context")
if [ -n "$dry_run" ]; then
  echo "$steps"
  exit 0
fi

work=$(mktemp -d)
rendered=$work/rendered.yaml
remembered=()
cleanup() {
  if [ -f "$work/forward.pid" ]; then kill "$(cat "$work/forward.pid")" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT
on_cluster() { kubectl --context "$context" --namespace "$namespace" "$@"; }

render() { kubectl kustomize "$1" >"$rendered"; }

set-image() { # the overlay again, with every image of ours replaced
  local folder name=$1 tag digest=''
  folder=$(python3 -c 'import os, sys; print(os.path.relpath(*map(os.path.realpath, sys.argv[1:])))' "$overlay_folder" "$work")
  case "$name" in *@*) digest=${name#*@} name=${name%@*} ;; esac
  case "${name##*/}" in *:*) tag=${name##*:} name=${name%:*} ;; *) tag='' ;; esac
  [ -n "$folder" ] || return 1
  {
    printf 'resources: ["%s"]\nimages:\n  - name: user-service\n    newName: "%s"\n' "$folder" "$name"
    [ -z "$tag" ] || printf '    newTag: "%s"\n' "$tag"
    [ -z "$digest" ] || printf '    digest: "%s"\n' "$digest"
  } >"$work/kustomization.yaml"
  kubectl kustomize "$work" >"$work/with-image.yaml" && mv "$work/with-image.yaml" "$rendered"
}

readonly unfilled='development-only|change-?me|replace-?me|placeholder|example\.com|:latest'
# Here-strings: under pipefail, a grep -q that ends at its first match makes the writer of a pipe fail, and with it the check.
is_placeholder() { grep -qiE "$unfilled" <<<"$1"; }

refuse-placeholders() {
  ! is_placeholder "$(cat "$rendered")" || {
    echo "a value that nobody has filled in:" && grep -niE "$unfilled" "$rendered"
    return 1
  }
}

require-digest() {
  ! grep -E '^ *(- )?image: ' "$rendered" | grep -v '@sha256:' ||
    { echo "production takes an image by digest: --image REGISTRY/NAME:TAG@sha256:..." && return 1; }
}

require-kinds() {
  local known kind missing=''
  known=$(on_cluster api-resources --no-headers | awk '{print $NF}')
  while read -r kind; do
    grep -qx "$kind" <<<"$known" || missing="$missing $kind"
  done < <(awk '/^kind: /{print $2}' "$rendered" | sort -u)
  [ -z "$missing" ] || {
    echo "the cluster does not know:$missing; install what defines them, or leave their component out of the overlay"
    return 1
  }
}

ensure-secret() { # a new one from the environment, never in an argument that a list of processes shows
  local name=$1 key value
  if on_cluster get secret "$name" >/dev/null 2>&1; then return; fi
  if grep -q '^kind: ExternalSecret' "$rendered"; then
    on_cluster wait --for=condition=Ready "externalsecret/$name" --timeout 120s
    return
  fi
  mkdir "$work/secret"
  for key in POSTGRES_USER_PASSWORD REDIS_PASSWORD ENCRYPTION_KEY INTERNAL_API_KEY; do
    value=${!key-}
    if [ -z "$value" ]; then
      case "$key" in
        ENCRYPTION_KEY) value=k1:$(head -c 32 /dev/urandom | base64 | tr -d '\n') ;;
        INTERNAL_API_KEY) value=$(head -c 32 /dev/urandom | base64 | tr -d '/+=\n') ;;
        *) echo "the Secret $name is missing, and so is $key in the environment to make it from" && return 1 ;;
      esac
      echo "made a new $key; keep a copy of it apart from the backups (docs/backup-and-recovery.md)"
    fi
    ! is_placeholder "$value" || { echo "$key is a placeholder" && return 1; }
    (umask 077 && printf '%s' "$value" >"$work/secret/$key")
  done
  on_cluster create secret generic "$name" --from-file="$work/secret" || return 1
  rm -rf "$work/secret"
}

wait-migration() {
  local state
  for _ in $(seq 300); do
    state=$(on_cluster get job "$1" --output 'jsonpath={.status.conditions[?(@.status=="True")].type}')
    case "$state" in
      *Complete*) return ;;
      *Failed*) break ;;
    esac
    sleep 2
  done
  echo "the migration did not finish (${state:-still running}); its log:"
  on_cluster logs "job/$1" --tail 30
  return 1
}

remember() { # the pod template that is in force, to put it back
  local file=$work/remembered-${#remembered[@]}.json
  if on_cluster get "$1" --output 'jsonpath={.spec.template}' >"$file" 2>/dev/null && [ -s "$file" ]; then
    remembered+=("$1")
  fi
}

wait-revision() { # Ready can still be the former revision's: the newest one has to be it
  local seen
  for _ in $(seq 150); do
    seen=$(on_cluster get "services.serving.knative.dev/$1" --output \
      'jsonpath={.metadata.generation} {.status.observedGeneration} {.status.latestCreatedRevisionName} {.status.latestReadyRevisionName} {.status.conditions[?(@.type=="Ready")].status}')
    # shellcheck disable=SC2086  # five words
    set -- "$1" $seen
    if [ "${2-}" = "${3-}" ] && [ "${4-}" = "${5-}" ] && [ "${6-}" = True ]; then return; fi
    sleep 2
  done
  echo "the newest revision of $1 did not become ready: $seen"
  return 1
}

wait-replicas() {
  local ready
  for _ in $(seq 90); do
    ready=$(on_cluster get deployment/user-service-deployment --output 'jsonpath={.status.readyReplicas}')
    if [ "${ready:-0}" -ge "$1" ]; then return; fi
    sleep 2
  done
  echo "${ready:-0} replicas are ready, not $1: kubectl --context $context describe hpa --namespace $namespace"
  return 1
}

smoke-test() {
  local target=service/user-service from=$namespace port=3002 local_port options=()
  if [ "$stack" = knative ]; then
    target=service/${gateway#*/} from=${gateway%/*} port=80
    options+=(--host "user-service.$namespace.svc.cluster.local")
  fi
  if [ "$overlay" = production ]; then options+=(--read-only); fi
  kubectl --context "$context" --namespace "$from" port-forward "$target" ":$port" >"$work/forward" 2>&1 &
  echo $! >"$work/forward.pid"
  for _ in $(seq 50); do
    local_port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$work/forward")
    [ -z "$local_port" ] || break
    sleep 0.2
  done
  [ -n "$local_port" ] || { echo "no port-forward to $target: $(cat "$work/forward")" && return 1; }
  INTERNAL_API_KEY=$(on_cluster get secret microservices-secrets --output 'jsonpath={.data.INTERNAL_API_KEY}' | base64 -d) \
    scripts/smoke-test --address "http://127.0.0.1:$local_port" --wait "${SMOKE_SECONDS:-60}" "${options[@]}"
}

roll_back() { # roll_back REASON
  local index=0 object
  echo "deploy-k8s: $1" >&2
  on_cluster get pods --selector app.kubernetes.io/name=user-service >&2 || true
  on_cluster get events --field-selector type=Warning --sort-by .lastTimestamp 2>/dev/null | tail -n 10 >&2 || true
  if [ ${#remembered[@]} -eq 0 ]; then
    echo "deploy-k8s: there is no former version to go back to; what was applied stays, to be looked at" >&2
    return
  fi
  for object in "${remembered[@]}"; do
    printf '[{"op": "replace", "path": "/spec/template", "value": %s}]' "$(cat "$work/remembered-$index.json")" >"$work/patch.json"
    on_cluster patch "$object" --type json --patch-file "$work/patch.json" >&2 ||
      echo "deploy-k8s: $object could not be rolled back" >&2
    index=$((index + 1))
  done
  echo "deploy-k8s: rolled back ${remembered[*]}; the schema of the database stays where the migration brought it" >&2
}

overlay_folder=$(sed -n '1s/^render //p' <<<"$steps")
while IFS= read -r step <&3; do
  echo "--- $step"
  read -ra words <<<"${step//rendered.yaml/$rendered}"
  if ! "${words[@]}" >"$work/output" 2>&1; then
    cat "$work/output" >&2
    roll_back "failed at: $step"
    exit 1
  fi
  cat "$work/output"
done 3<<<"$steps"
echo "deployed: $stack/$overlay on $context"
