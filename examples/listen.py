"""Print what a NeuroFlow server decodes, as it decodes it."""

import sys

from neuroflow_client import Client, TrialOutcome

address = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5760"
for outcome in Client(address):
    if isinstance(outcome, TrialOutcome) and outcome.candidates:
        best = outcome.candidates[0]
        print(outcome.trial_id, best.label, best.stimulus_id, outcome.confidence)
