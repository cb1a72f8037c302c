#!/usr/bin/env bash
# Deploy the service to a cluster: scripts/deploy-k8s.sh --help
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

python=$(find_python)
exec "$python" "$root/scripts/deploy.py" "$@"
