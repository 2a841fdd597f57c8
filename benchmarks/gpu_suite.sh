#!/usr/bin/env bash
# Everything that needs a GPU, in one run on a machine that has one: build, tests, verify,
# bench, and the same flow step in torch (compile max-autotune, CUDA graphs). JSON.
# A part that fails is said, the others run all the same, and the exit status is 1.
#   benchmarks/gpu_suite.sh BUNDLE OUT [PRECISION]
set -uo pipefail
test $# -ge 2 || { echo "usage: benchmarks/gpu_suite.sh BUNDLE OUT [PRECISION]" >&2; exit 2; }
test -r /proc/driver/nvidia/version || {
    echo "gpu_suite: expected an NVIDIA GPU with its driver, found none: not run" >&2
    exit 1
}
mkdir -p "$2" || exit 1
# Before the folder changes: both may be relative.
bundle=$(realpath "$1") out=$(realpath "$2") precision=${3:-f32}
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-$PWD/.venv/bin/python}
failed=()

part() {
    local name=$1 to=$2
    shift 2
    "$@" > "$out/$to" || { failed+=("$name"); echo "gpu_suite: $name failed" >&2; }
}

{ cat /proc/driver/nvidia/version; nvidia-smi -q 2>/dev/null || true; } > "$out/gpu.txt"
with=(--backend tensorrt --precision "$precision")
part compile compile.json "$python" -m neuroflow compile "$bundle" "${with[@]}" --json
part tests tests.txt "$python" -m pytest -q -m gpu tests
part verify verify.json "$python" -m neuroflow verify "$bundle" "${with[@]}" --json
part bench bench.txt \
    "$python" -m neuroflow bench "$bundle" "${with[@]}" --json "$out/bench.json"
part torch torch.txt \
    "$python" -m benchmarks.gpu_suite --out "$out/torch.json" --precision "$precision"
if test ${#failed[@]} -gt 0; then
    echo "gpu_suite: ${failed[*]} failed, the others are in $out" >&2
    exit 1
fi
echo "gpu_suite: done, see $out"
