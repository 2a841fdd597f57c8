#!/usr/bin/env bash
# Measure this machine and write docs/latency.json and the tables of docs/latency.md.
#   benchmarks/latency.sh [FLAGS of neuroflow bench]
# Without flags: the paper's shapes with 2 of its 12 blocks, on all cores, in some
# minutes. With `--depth 12` the whole model, which takes 8 GB of memory and longer.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$python" -m neuroflow bench --preset paper-subj01 --depth 2 --against ort,torch \
    --rounds 12 --seconds 6 --json docs/latency.json "$@" >/dev/null
"$python" -m benchmarks.latency_table docs/latency.json docs/latency_paper.json docs/latency.md
