#!/usr/bin/env bash
# Two versions, a label that callers ask for, and the way back: examples/roll_back.sh DIR [FLAG...]
set -euo pipefail
data=${1:?which folder?}
shift
out=${OUT:-examples-out} port=${PORT:-8500}
labels=$out/models.config

for seed in 1 2; do
  python -m trainer train --data "$data" --model-dir "$out/models" --name mine --seed "$seed" "$@"
done

# What TensorFlow Serving is to load. All versions: a label moves between those that are loaded.
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
  # The label moves as soon as the server has read the file again.
  sleep 2
  python -m serving_client describe --model mine --label stable --server "localhost:$port" --wait --timeout-s 60
}

promote 1
# A server that starts has loaded nothing yet, and would refuse a file with labels.
python -m local_server --model_config_file "$labels" --model_config_file_poll_wait_seconds 1 \
  --allow_version_labels_for_unavailable_models --port "$port" &
server=$!
trap 'kill "$server"' EXIT
ask

promote 2
ask

# Version 2 is not as good as hoped.
python -m trainer rollback --label stable --name mine --model-config "$labels"
ask
python -m trainer versions --model-dir "$out/models" --name mine --model-config "$labels"
