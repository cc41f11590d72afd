#!/usr/bin/env bash
# Run the two-node training as two processes on this machine:
# examples/fine_tune_on_two_nodes/rehearse.sh DIR [FLAG...]
set -euo pipefail
data=${1:?"usage: examples/fine_tune_on_two_nodes/rehearse.sh DIR [FLAG...]"}
shift
out=${OUT:-examples-out} port=${PORT:-2222}

worker() {
  local index=$1
  shift
  TF_CONFIG="{\"cluster\": {\"worker\": [\"localhost:$port\", \"localhost:$((port + 1))\"]},
    \"task\": {\"type\": \"worker\", \"index\": $index}}" \
    python -m trainer train --data "$data" --model-dir "$out/models" --name mine --run-id "two-$$" \
    --fine-tune-from block13 --fine-tune-learning-rate 3e-5 --fine-tune-epochs 6 "$@"
}

# Worker 0 is the chief, which prints progress and publishes the version.
worker 1 "$@" &
worker 0 "$@"
wait $!
