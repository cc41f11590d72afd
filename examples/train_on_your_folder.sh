#!/usr/bin/env bash
# From a folder of labelled pictures to answers: examples/train_on_your_folder.sh DIR [FLAG...]
# DIR holds train/CLASS/*, validation/CLASS/* and test/CLASS/*.
set -euo pipefail
data=${1:?which folder?}
shift
out=${OUT:-examples-out} port=${PORT:-8500}

# What would fail after hours fails here, within seconds.
python -m trainer doctor --data "$data" --model-dir "$out/models" --name mine "$@"

python -m trainer train --data "$data" --model-dir "$out/models" --name mine "$@"

# Once more, through the SavedModel that is served, on pictures that nothing was chosen by.
python -m trainer evaluate --model "$out/models/mine" --data "$data/test"

python -m local_server --model_name mine --model_base_path "$out/models/mine" --port "$port" &
server=$!
trap 'kill "$server"' EXIT
python -m serving_client describe --model mine --server "localhost:$port" --wait --timeout-s 60
python -m serving_client classify "$data/test" --model mine --server "localhost:$port" --top 1
