#!/usr/bin/env bash
# A rig's environment from nothing: how large it is, that torch is not in it, and that
# it decodes a recording with a bundle made elsewhere.
#   benchmarks/rig.sh BUNDLE GALLERY RECORDING RUN
set -euo pipefail
bundle=$1 gallery=$2 recording=$3 run=$4
root=$(cd "$(dirname "$0")/.." && pwd)
rig=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server" 2>/dev/null || true; rm -rf "$rig"' EXIT

python3 -m venv "$rig/venv"
"$rig/venv/bin/pip" install --quiet --constraint "$root/constraints.txt" "$root[cpu,scanner]"
echo "environment: $(du -sm "$rig/venv" | cut -f1) MB"
for name in torch onnx; do
    "$rig/venv/bin/python" -c "
import importlib.util, sys
sys.exit(importlib.util.find_spec('$name') is not None)" || { echo "$name is installed"; exit 1; }
done
echo "torch and onnx: not installed"
"$rig/venv/bin/neuroflow" verify "$bundle"
"$rig/venv/bin/neuroflow" serve --bundle "$bundle" --gallery "$gallery" \
    --address 'tcp://127.0.0.1:*' --ready-file "$rig/ready.json" &
server=$!
until test -s "$rig/ready.json"; do kill -0 "$server"; sleep 0.2; done
address=$(sed 's/.*"address":"\([^"]*\)".*/\1/' "$rig/ready.json")
"$rig/venv/bin/neuroflow" play "$recording" --to "$address" --runs "$run" --fast
"$rig/venv/bin/neuroflow" watch --address "$address" | tail -n 3
kill -TERM "$server"
wait "$server"
server=
