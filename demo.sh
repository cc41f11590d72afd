#!/usr/bin/env bash
# From pictures to an answered gRPC call: train, serve, classify. `make demo` runs this.
set -euo pipefail

# The server runs on this machine, so no proxy may be asked for it.
export no_proxy="${no_proxy:+$no_proxy,}localhost"

out=build/demo
rm -rf "$out"
mkdir -p "$out"

step() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

step python -m trainer sample "$out/images"

# Random weights need no download, and suffice for drawings. Use --weights imagenet for photographs.
step python -m trainer train --data "$out/images" --model-dir "$out/models" --name demo \
  --backbone resnet50v2 --weights none --image-size 96 --learning-rate 0.05 --epochs 10 --cpu-replicas 2

port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
printf '\n\033[1m$ %s\033[0m\n' "python -m local_server --model_name demo --model_base_path $out/models/demo --port $port &"
python -m local_server --model_name demo --model_base_path "$out/models/demo" --port "$port" 2>"$out/server.log" &
server=$!

# If the server does not start, show its log.
trap 'kill "$server" 2>/dev/null; cat "$out/server.log" >&2' EXIT

step python -m serving_client classify "$out"/images/test/*/000.jpg \
  --server "localhost:$port" --model demo --wait --timeout-s 60

kill "$server"
wait "$server"
trap - EXIT
printf '\nThe server has stopped. Images, model versions and logs are in %s/\n' "$out"
