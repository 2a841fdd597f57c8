#!/usr/bin/env bash
# Everything that needs a GPU, in one run on a machine that has one: build, verify,
# bench, and the same flow step in torch (compile max-autotune, CUDA graphs). JSON.
#   benchmarks/gpu_suite.sh BUNDLE OUT [PRECISION]
set -euo pipefail
test $# -ge 2 || { echo "usage: benchmarks/gpu_suite.sh BUNDLE OUT [PRECISION]" >&2; exit 2; }
bundle=$1 out=$2 precision=${3:-f32}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
test -r /proc/driver/nvidia/version || {
    echo "gpu_suite: expected an NVIDIA GPU with its driver, found none: not run" >&2
    exit 1
}
mkdir -p "$out"
cd "$root"
{ cat /proc/driver/nvidia/version; nvidia-smi -q 2>/dev/null || true; } > "$out/gpu.txt"
"$python" -m neuroflow compile "$bundle" --backend tensorrt --precision "$precision" --json \
    > "$out/compile.json"
"$python" -m pytest -q -m gpu tests | tee "$out/tests.txt"
"$python" -m neuroflow verify "$bundle" --backend tensorrt --precision "$precision" --json \
    > "$out/verify.json"
"$python" -m neuroflow bench "$bundle" --backend tensorrt --precision "$precision" \
    --json "$out/bench.json"
"$python" -m benchmarks.gpu_suite --out "$out/torch.json" --precision "$precision"
echo "gpu_suite: done, see $out"
