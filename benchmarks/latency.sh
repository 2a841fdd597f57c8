#!/usr/bin/env bash
# Measure this machine and write docs/latency.json and the tables of docs/latency.md.
#   benchmarks/latency.sh [FLAGS of neuroflow bench]
# Without flags: the paper's whole model in bfloat16 beside others, on all cores, in some
# twenty minutes and 22 GB of memory. Where the processor has no bfloat16:
# `--precision f32 --against ort,torch --depth 2`, the paper's shapes with 2 of its blocks.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$python" -m neuroflow bench --preset paper-subj01 --precision bf16 \
    --against ort,torch,torch-compile,torch-autocast,openvino:int8 \
    --rounds 6 --seconds 9 --tr 2 --json docs/latency.json "$@" >/dev/null
"$python" -m benchmarks.latency_table docs/latency.json docs/latency_avx2.json docs/latency.md
