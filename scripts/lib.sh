# shellcheck shell=bash
# What scripts/serve, scripts/test and scripts/check share. `root` is the folder of the project; works with bash 3.2.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
lock=$root/.venv.lock

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

# The first Python in a supported version that runs: a name on PATH can be a shim without one behind it.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  fail "No Python 3.11 to 3.14 on PATH. Install one: apt-get install python3 python3-venv (Debian 12, Ubuntu 24.04" \
    "or later), dnf install python3.12, or brew install python@3.13"
}

make_venv() {
  local python
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    fail "$python can't make a virtual environment: its ensurepip is a package of its own here." \
      "Install it: apt-get install python3-venv"
  fi
  "$python" -m venv --clear "$venv" || fail "Could not make $venv with $python; is the folder writable?"
}

# What an installation depends on: the lock, the metadata of the service and of its client, the interpreter, the place.
fingerprint() { # fingerprint LOCK
  "$venv/bin/python" - "$1" "$root/pyproject.toml" "$root/clients/python/pyproject.toml" <<'PYTHON'
import hashlib, pathlib, sys
state = hashlib.sha256(f"{sys.version} {sys.prefix}".encode())
for name in sys.argv[1:]:
    state.update(pathlib.Path(name).read_bytes())
print(state.hexdigest())
PYTHON
}

installed() { # installed NAME
  local stamp=$venv/.installed-$1
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint "$root/requirements/$1.txt" 2>/dev/null)" ]
}

install() { # install NAME
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
  rm -f "$venv/.installed-$1"
  echo "Installing requirements/$1.txt into .venv; the first time takes a minute." >&2
  pip_install --require-hashes --requirement "$root/requirements/$1.txt"
  pip_install --no-deps --no-build-isolation --editable "$root" --editable "$root/clients/python"
  fingerprint "$root/requirements/$1.txt" >"$venv/.installed-$1"
}

pip_install() {
  PIP_USER=0 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action ignore "$@" ||
    fail "pip could not install $*: see above."
}

alive() { # alive PID; `kill` alone would miss the process of another account
  [ -n "$1" ] && { kill -0 "$1" 2>/dev/null || ps -p "$1" >/dev/null 2>&1; }
}

# One installation at a time; the lock of a process that is gone counts for nothing.
hold_lock() {
  local holder waited=0
  [ -w "$root" ] || fail "$root is not writable for this account. Clone the project into a folder of your own."
  until mkdir "$lock" 2>/dev/null; do
    holder=$(cat "$lock/pid" 2>/dev/null || true)
    if ! alive "$holder" && { [ -n "$holder" ] || [ "$waited" -gt 10 ]; }; then
      mv "$lock" "$lock.$$" 2>/dev/null && rm -rf "$lock.$$"
      continue
    fi
    [ "$waited" -gt 0 ] || echo "Waiting for process ${holder:-that} has $lock." >&2
    waited=$((waited + 1))
    [ "$waited" -lt 900 ] || fail "$lock has been held for 15 minutes. If nothing installs, remove it."
    sleep 1
  done
  trap release_lock EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  echo $$ >"$lock/pid"
}

release_lock() {
  rm -rf "$lock"
  trap - EXIT INT TERM
}

# Makes `$venv` ready with requirements/NAME.txt and the project itself; costs next to nothing when it is.
prepare() { # prepare NAME
  installed "$1" && return
  hold_lock
  installed "$1" || install "$1"
  release_lock
}
