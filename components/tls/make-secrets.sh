#!/usr/bin/env bash
# Print the two Secrets that components/tls mounts: one for TensorFlow Serving and one for its callers. Their
# certificates are valid for a year and come from a new certificate authority, whose key is not kept.
#   components/tls/make-secrets.sh NAMESPACE | kubectl apply -n NAMESPACE -f -
# Anyone who holds classifier-client-tls can call the model.
set -euo pipefail
namespace=${1:?"usage: components/tls/make-secrets.sh NAMESPACE"}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
  -subj "/CN=classifier CA" -keyout ca.key -out ca.crt 2> /dev/null

sign() { # NAME EXTENDED-KEY-USAGE SUBJECT-ALTERNATIVE-NAMES
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" \
    -keyout "$1.key" -out "$1.csr" 2> /dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" \
    -extfile <(printf 'extendedKeyUsage=%s\nsubjectAltName=%s\n' "$2" "$3") 2> /dev/null
}
names=DNS:localhost
for service in classifier classifier-pods; do
  names+=,DNS:$service,DNS:$service.$namespace,DNS:$service.$namespace.svc,DNS:$service.$namespace.svc.cluster.local
done
sign server serverAuth "$names"
sign client clientAuth DNS:classifier-client

# TensorFlow Serving reads a text proto that contains the PEM files.
text() { awk '{printf "%s\\n", $0}' "$1"; }
cat > ssl.config <<CONFIG
server_key: "$(text server.key)"
server_cert: "$(text server.crt)"
custom_ca: "$(text ca.crt)"
client_verify: true
CONFIG

secret() { # NAME FILE...
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\ntype: Opaque\ndata:\n' "$1"
  shift
  for file in "$@"; do
    printf '  %s: %s\n' "${file/client./tls.}" "$(base64 -w0 < "$file" 2> /dev/null || base64 < "$file" | tr -d '\n')"
  done
}
secret classifier-serving-tls ssl.config
secret classifier-client-tls ca.crt client.crt client.key
