#!/usr/bin/env bash
# Every metric of simulated participants on whom nothing was chosen, from the command
# line alone, and their mean: two trainings each, of which the second reads what the
# first predicts. Writes docs/evaluation; 8 minutes of one core a participant.
#   benchmarks/evaluation.sh SCRATCH SEED SEED ...
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$1
shift
python=${PYTHON:-$PWD/.venv/bin/python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1
neuroflow() { "$python" -m neuroflow "$@"; }

# Other weights to begin with and other batches, the same settings.
another='
import json, sys
config = json.load(sys.stdin)
for stage in ("vae_training", "flow_training"):
    config[stage]["seed"] += 1
json.dump(config, sys.stdout)
'
evaluations=()
for seed in "$@"; do
    person=$scratch/$seed recording=$scratch/$seed/participant
    mkdir -p "$person"
    neuroflow simulate --out "$recording" --seed "$seed"
    neuroflow train vae --recording "$recording" --out "$person/none" --dry-run \
        >"$person/own.json"
    "$python" -c "$another" <"$person/own.json" >"$person/external.json"
    for which in own external; do
        made=$person/$which config=$person/$which.json
        neuroflow train vae --recording "$recording" --config "$config" --out "$made/vae"
        neuroflow train flow --recording "$recording" --config "$config" \
            --vae "$made/vae" --out "$made/flow"
        neuroflow export --vae "$made/vae" --flow "$made/flow" \
            --recording "$recording" --out "$made"
    done
    neuroflow evaluate --bundle "$person/own/bundle" --recording "$recording" \
        --external "$person/external/bundle" --out "$person/evaluation" >/dev/null
    evaluations+=("$person/evaluation")
done
neuroflow evaluate --combine "${evaluations[@]}" --out "$scratch/combined" >/dev/null

# Raw values stay behind: they are megabytes, and made again by the same commands.
rm -rf docs/evaluation
mkdir docs/evaluation
cp "$scratch"/combined/combined.* docs/evaluation
find "${evaluations[0]}" -type f ! -name '*.npz' -exec cp {} docs/evaluation \;
