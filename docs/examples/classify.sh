#!/usr/bin/env bash
# Photos to a classifier and an answer, with curl alone.
#   KEY=… FOLDER=./flowers PHOTO=photo.jpg docs/examples/classify.sh
# FOLDER holds a folder per class. URL names the service, http://localhost:8000 if unset.
set -euo pipefail
url=${URL:-http://localhost:8000}
json='Content-Type: application/json'

api() {
    curl --silent --show-error --fail-with-body -H "Authorization: Bearer $KEY" "$@"
}
field() { # the value of a JSON field with a string
    grep -o "\"$1\": *\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4
}

dataset=$(api "$url/v1/datasets" -H "$json" -d '{"name": "from curl"}' | field dataset)
for class in "$FOLDER"/*/; do
    files=()
    for file in "$class"*; do files+=(-F "files=@$file"); done
    api "$url/v1/datasets/$dataset/images" -F "label=$(basename "$class")" "${files[@]}"
    echo
done

job=$(api "$url/v1/jobs" -H "$json" -d "{\"dataset\": \"$dataset\", \"adapter\": \"from-curl\"}" | field job)
api --no-buffer "$url/v1/jobs/$job/events" | while read -r line; do
    case $line in *'"state":"succeeded"'*) echo "fitted" ;; *'"state":"failed"'*) echo "$line" >&2 && exit 1 ;; esac
done

api "$url/v1/classify" -F "files=@$PHOTO" -F adapter=from-curl
