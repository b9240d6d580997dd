#!/usr/bin/env bash
# Installs what the tests drive besides Python packages: a Redis, a Chromium, a C compiler with Python's headers (for
# the compiled form), h2load, the shells that have completion scripts, and for benchmarks' own tests nginx, HAProxy and
# wrk. Only what is missing; with apt-get, as root or through sudo.
set -euo pipefail

declare -A packages=([redis-server]=redis-server [gcc]="gcc libc6-dev" [nginx]=nginx [haproxy]=haproxy [wrk]=wrk [h2load]=nghttp2-client [zsh]=zsh [fish]=fish [promtool]=prometheus [systemd-analyze]=systemd)
missing=()
for program in "${!packages[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || missing+=(${packages[$program]})
done
python=.venv/bin/python
[ -x "$python" ] || python=python3
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
headers=()
# Debian's own interpreter has them in a package; most others bring them.
[ -e "$header" ] || headers=("$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')")
browser=()
# The shell alone draws pages at half of the browser's cost; where it can't be had, the tests drive the browser.
command -v chromium-headless-shell >/dev/null 2>&1 || browser=(chromium-headless-shell)
[ $((${#missing[@]} + ${#headers[@]} + ${#browser[@]})) -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  command -v chromium >/dev/null 2>&1 || missing+=(chromium)
  [ $((${#missing[@]} + ${#headers[@]})) -eq 0 ] && exit 0
  echo "the tests need: ${missing[*]} ${headers[*]} (install them with your system's package manager)" >&2
  exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq || true # what is missing and can't be had is told below
install() {
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
[ ${#headers[@]} -eq 0 ] || install "${headers[@]}" ||
  echo "$header is missing and ${headers[*]} can't be had: the compiled form will not be tested" >&2
[ ${#browser[@]} -eq 0 ] || install "${browser[@]}" || command -v chromium >/dev/null 2>&1 || install chromium
# A packaged server may start itself; the tests start their own on ports of their own.
for service in redis-server nginx haproxy prometheus; do
  "${as_root[@]}" service "$service" stop >/dev/null 2>&1 || true
done
