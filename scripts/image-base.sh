# shellcheck shell=bash
# For scripts/check-image, scripts/check-one-machine and scripts/check-reproducible: `base` is the image that images are built on, made here by debootstrap
# where it is empty (once; the local image is used again). `arch` is another processor than this machine's, such as arm64: Debian's qemu-user-static runs
# its programs, registered in binfmt_misc.

for tool in podman buildah runc; do
  command -v "$tool" >/dev/null || { echo "$0: $tool is missing (Debian package $tool)" >&2; exit 1; }
done

# In a shell of its own, whose trap leaves that of the caller alone.
make_base() (
  command -v debootstrap >/dev/null || { echo "$0: debootstrap is missing; install it or pass --base" >&2; exit 1; }
  local tree
  tree=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now, not of later
  trap "rm -rf '$tree' '$tree.log'" EXIT
  debootstrap ${arch:+--arch="$arch"} --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$tree" >"$tree.log" 2>&1 ||
    { tail -n 20 "$tree.log" >&2; exit 1; }
  rm -rf "$tree"/var/cache/apt/archives/*.deb
  # What the machine trusts, the build trusts: a company's proxy signs downloads with an authority of its own.
  cp /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
  tar -C "$tree" -c . | podman import --quiet ${arch:+--arch="$arch"} - "$1" >/dev/null
)

# Makes `base` where it is empty. Images that are local need no signature; a machine without any policy refuses them.
prepare_base() {
  if [ ! -e /etc/containers/policy.json ] && [ ! -e "$HOME/.config/containers/policy.json" ]; then
    mkdir -p "$HOME/.config/containers"
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$HOME/.config/containers/policy.json"
  fi
  if [ -z "$base" ]; then
    base=localhost/python-base:trixie${arch:+-$arch}
    podman image exists "$base" || make_base "$base"
  fi
}
