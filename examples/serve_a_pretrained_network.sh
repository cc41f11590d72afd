#!/usr/bin/env bash
# Serve ImageNet's 1,000 classes without training: examples/serve_a_pretrained_network.sh IMAGE [FLAG...]
# It passes the flags to `python -m trainer export-pretrained`, for example --backbone xception.
set -euo pipefail
image=${1:?"usage: examples/serve_a_pretrained_network.sh IMAGE [FLAG...]"}
shift
out=${OUT:-examples-out} port=${PORT:-8500}

python -m trainer export-pretrained --backbone mobilenetv2 --model-dir "$out/models" --name imagenet "$@"

python -m local_server --model_name imagenet --model_base_path "$out/models/imagenet" --port "$port" &
server=$!
trap 'kill "$server"' EXIT
python -m serving_client classify "$image" --model imagenet --server "localhost:$port" --top 5 \
  --wait --timeout-s 60
