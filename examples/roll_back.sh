#!/usr/bin/env bash
# Publish two versions, move a label from one to the other and roll back: examples/roll_back.sh DIR [FLAG...]
set -euo pipefail
data=${1:?"usage: examples/roll_back.sh DIR [FLAG...]"}
shift
out=${OUT:-examples-out} port=${PORT:-8500}
labels=$out/models.config

for seed in 1 2; do
  python -m trainer train --data "$data" --model-dir "$out/models" --name mine --seed "$seed" "$@"
done

# Tell TensorFlow Serving to load all versions, because a label can only name a loaded one.
cat > "$labels" << END
model_config_list {
  config {
    name: "mine"
    base_path: "$(realpath "$out/models/mine")"
    model_platform: "tensorflow"
    model_version_policy { all {} }
  }
}
END

promote() {
  python -m trainer promote "$1" --label stable --model-dir "$out/models" --name mine --model-config "$labels"
}
ask() {
  # The label moves when the server reads the file again, once a second.
  sleep 2
  python -m serving_client describe --model mine --label stable --server "localhost:$port" --wait --timeout-s 60
}

promote 1
# Without the last flag, a server that starts refuses the labels, because it has loaded no version yet.
python -m local_server --model_config_file "$labels" --model_config_file_poll_wait_seconds 1 \
  --allow_version_labels_for_unavailable_models --port "$port" &
server=$!
trap 'kill "$server"' EXIT
ask

promote 2
ask

# Return to version 1.
python -m trainer rollback --label stable --name mine --model-config "$labels"
ask
python -m trainer versions --model-dir "$out/models" --name mine --model-config "$labels"
