#!/usr/bin/env bash
# ImageNet's 1,000 classes, with no training: examples/serve_a_pretrained_network.sh IMAGE [FLAG...]
# FLAGs are those of `python -m trainer export-pretrained`, such as --backbone xception.
set -euo pipefail
image=${1:?which image?}
shift
out=${OUT:-examples-out} port=${PORT:-8500}

python -m trainer export-pretrained --backbone mobilenetv2 --model-dir "$out/models" --name imagenet "$@"

python -m local_server --model_name imagenet --model_base_path "$out/models/imagenet" --port "$port" &
server=$!
trap 'kill "$server"' EXIT
python -m serving_client classify "$image" --model imagenet --server "localhost:$port" --top 5 \
  --wait --timeout-s 60
