#!/usr/bin/env bash
# Write the digest behind each tag of base-images.mk, as the registry has it now. Needs Docker.
set -euo pipefail
cd "$(dirname "$0")"
while read -r name assign image; do
  if [ "$assign" = '?=' ]; then
    tag=${image%%@*}
    docker pull --quiet "$tag" >/dev/null
    digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$tag" | sed -n 's/.*@//p' | head -n 1)
    [ -n "$digest" ] || { echo "pin_base_images.sh: '$tag' has no digest: it did not come from a registry" >&2; exit 2; }
    image=$tag@$digest
  fi
  echo "$name $assign $image"
done <base-images.mk >base-images.new
mv base-images.new base-images.mk
