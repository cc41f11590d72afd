#!/usr/bin/env bash
# Create a kind cluster on this machine, then train, serve and classify on it. `make kind` runs this script and
# `make kind-down` deletes the cluster.
set -euo pipefail
cd "$(dirname "$0")"

cluster=classifier
out=$PWD/build/kind

step() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

if [[ ${1:-} == down ]]; then
  step kind delete cluster --name "$cluster"
  exit
fi

for program in docker kind kubectl; do
  if ! type -P "$program" > /dev/null; then
    echo "make kind: $program must be installed. Received: not found in PATH." \
      "See https://kind.sigs.k8s.io/docs/user/quick-start" >&2
    exit 1
  fi
done

# The cluster's volumes are folders on this machine. The pods run as another user.
mkdir -p "$out/models"
chmod 777 "$out/models"
if [[ ! -d $out/data/train ]]; then
  step python -m trainer sample "$out/data"
fi

if ! kind get clusters 2> /dev/null | grep -qx "$cluster"; then
  sed "s|DIRECTORY|$out|" overlays/kind/kind-config.yaml > "$out/config.yaml"
  step kind create cluster --name "$cluster" --config "$out/config.yaml" --wait 120s
fi

# Use this cluster, whatever the user's own kubeconfig names.
kind get kubeconfig --name "$cluster" > "$out/kubeconfig"
export KUBECONFIG=$out/kubeconfig

step docker build --quiet -f Dockerfile.train --build-arg ACCELERATOR=cpu -t image-classifier-train:0.1.0 .
step docker build --quiet -f Dockerfile.serve -t image-classifier-serve:0.1.0 .
step docker build --quiet -f Dockerfile.gateway -t image-classifier-gateway:0.1.0 .
for image in train serve gateway; do
  step kind load docker-image --name "$cluster" "image-classifier-$image:0.1.0"
done

step kubectl apply -k overlays/kind
step python -m trainer logs train-classifier --follow
step kubectl rollout status deployment/classifier --timeout=5m
step kubectl rollout status deployment/classifier-gateway --timeout=5m

# Forward a free local port to SERVICE's PORT and set $address to it. kubectl logs each connection, so its output goes
# to a file.
forward() {
  kubectl port-forward "service/$1" ":$2" > "$out/forward-$1.log" &
  address=
  until [[ -n $address ]]; do
    kill -0 $! || exit 1
    sleep 0.2
    address=$(sed -n 's/^Forwarding from \(127\.0\.0\.1:[0-9]*\) .*/\1/p' "$out/forward-$1.log")
  done
}
trap 'kill $(jobs -p) 2> /dev/null' EXIT
forward classifier 8500
step python -m serving_client classify "$out"/data/test/*/000.jpg --server "$address" --model classifier
forward classifier-gateway 80
printf '\nThe gateway is at http://%s. Ctrl-C ends the port-forward; make kind-down deletes the cluster.\n' "$address"
python -m webbrowser "http://$address" > /dev/null 2>&1 || true
if [[ -t 1 ]]; then
  wait
fi
