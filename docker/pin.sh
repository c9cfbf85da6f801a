#!/bin/sh
# Pins the images of docker-compose.yml and the Dockerfile: name:tag becomes name:tag@sha256:…, the
# digest that the registry has for the tag now. Run it again to raise the digests.
#   docker/pin.sh           asks the registry and changes the files
#   docker/pin.sh --check   fails if an image is not pinned
set -eu
cd "$(dirname "$0")/.."
files="docker-compose.yml docker/Dockerfile"

images() { # not the service's own, whose tag is a variable
  sed -nE 's/^ *image: +([^ $]+)$/\1/p; s/^FROM +([^ ]+).*$/\1/p' $files | sort -u
}

if [ "${1:-}" = --check ]; then
  loose=$(images | grep -v @sha256: || true)
  [ -z "$loose" ] || { echo "not pinned:" $loose >&2; exit 1; }
  exit 0
fi

for image in $(images); do
  tag=${image%@*}
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$tag")
  case $digest in
    sha256:*) ;;
    *) echo "$tag: no digest: $digest" >&2; exit 1 ;;
  esac
  for file in $files; do
    sed "s|$image|$tag@$digest|" "$file" > "$file.pinned"
    cat "$file.pinned" > "$file" # keeps the file's mode
    rm "$file.pinned"
  done
  echo "$tag@$digest"
done
