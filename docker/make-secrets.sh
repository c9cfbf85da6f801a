#!/bin/sh
# Makes what is missing of docker/secrets (or of the folder given): one file a secret. The folder is
# its owner's alone; the files in it are for all to read, since Compose mounts them as they are and
# each container runs as a user of its own.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
umask 022

word() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

for name in rmadapter_admin_key rmadapter_redis_password grafana_password \
    rmadapter_s3_access_key_id rmadapter_s3_secret_access_key; do
    [ -e "$folder/$name" ] || word > "$folder/$name"
done
if [ ! -e "$folder/seaweedfs.json" ]; then  # the store's own list of who may do what
    cat > "$folder/seaweedfs.json" << END
{"identities": [{"name": "rmadapter", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$(cat "$folder/rmadapter_s3_access_key_id")",
    "secretKey": "$(cat "$folder/rmadapter_s3_secret_access_key")"}]}]}
END
fi
