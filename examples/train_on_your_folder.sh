#!/usr/bin/env bash
# Train on your folder of labelled images, then serve it: examples/train_on_your_folder.sh DIR [FLAG...]
# DIR holds train/CLASS/*, validation/CLASS/* and test/CLASS/*.
set -euo pipefail
data=${1:?"usage: examples/train_on_your_folder.sh DIR [FLAG...]"}
shift
out=${OUT:-examples-out} port=${PORT:-8500}

# Check within seconds what would otherwise fail after hours.
python -m trainer doctor --data "$data" --model-dir "$out/models" --name mine "$@"

python -m trainer train --data "$data" --model-dir "$out/models" --name mine "$@"

# Measure the published SavedModel on the test split, which training did not use.
python -m trainer evaluate --model "$out/models/mine" --data "$data/test"

python -m local_server --model_name mine --model_base_path "$out/models/mine" --port "$port" &
server=$!
trap 'kill "$server"' EXIT
python -m serving_client describe --model mine --server "localhost:$port" --wait --timeout-s 60
python -m serving_client classify "$data/test" --model mine --server "localhost:$port" --top 1
