"""Recordings made while everything goes wrong are replayed: the same answers?

Each recording is one run as `tests.faults.rough_run` makes it: a real model, processes
that are killed, cables that are cut, volumes that come late, twice or never; models
with and without trials, every late policy and both paces in turn. It is then replayed
by what `neuroflow replay RECORDING --verify` calls. It is identical if that ends
without an error, finds no difference and leaves nothing out, and if every answer on
record was compared: an answer that two workers gave would be one too many. A server
that is killed for good may owe answers to a run that has ended, for which --verify
fails; such a recording is replayed without, and is held to all the rest.

The sabotage is a standby that takes over without having learned from what the other one
answered. Its answers look as good as any; only that they are not those of the recorded
inputs gives it away.
"""

import contextlib
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bci_bridge.outcomes import Outcome, Update, VolumeOutcome
from bci_bridge.places import OUTCOMES
from bci_bridge.recording_reader import scan_recording
from bci_bridge.segment import Logged
from runtime.errors import NeuroFlowError
from tests.faults.recordings import scratch
from tests.faults.result import (
    NONE,
    Bound,
    Fault,
    Figure,
    Finding,
    Progress,
    Settings,
)
from tests.faults.rough_run import Script, record, shown
from tests.faults.workers import Input, artifacts, real_worker
from verbs.replay import replay_recording

SHORT = 2


@dataclass
class Verdict:
    """How one replay compares with its recording."""

    compared: int = 0
    recorded: int = 0
    updates: int = 0
    differences: int = 0
    left_out: int = 0
    unended: int = 0
    lacking: int = 0
    """Answers that a server killed for good has not written."""
    volumes: Counter[str] = field(default_factory=Counter)
    """By input, timing and what the late policy did."""
    troubles: list[str] = field(default_factory=list)

    @property
    def not_compared(self) -> int:
        return self.recorded - self.compared

    @property
    def is_identical(self) -> bool:
        is_whole = not (self.differences or self.left_out or self.not_compared)
        return is_whole and not self.troubles and self.compared > 0


def run(settings: Settings) -> Finding:
    """Record and replay, one after the other."""
    tries = settings.tries(short=SHORT, full=100)
    kind = "amnesiac-real" if settings.sabotage else "real"
    verdicts: list[Verdict] = []
    kills: Counter[str] = Counter()
    cuts, troubles, examples = 0, 0, list[str]()
    progress = Progress("replays", tries)
    for number in range(tries):
        script = Script.drawn(settings.seed, number)
        with scratch() as folder:
            loads = folder / "loads"
            served = real_worker(loads, kind=kind, input_kind=script.input_kind)
            found = record(script, folder, served)
            verdict = replay_of(
                found.recording,
                script.input_kind,
                is_cut_off=script.acts[-1][1] == "end",
            )
        verdicts.append(verdict)
        kills += found.kills
        cuts += found.cuts
        troubles += len(found.troubles)
        said = [*found.troubles, *verdict.troubles]
        examples += [f"recording {number}: {line}" for line in said]
        if said or not verdict.is_identical:
            examples.append(f"recording {number} was {shown(script)}")
        progress.at(number + 1)
    return _found(tries, verdicts, kills, cuts, troubles, examples)


def replay_of(recording: Path, input_kind: Input, *, is_cut_off: bool) -> Verdict:
    """Replay a recording as the command does, and count what is on record.

    Args:
        recording: Its folder.
        input_kind: Which model answered.
        is_cut_off: Its server was killed for good.
    """
    verdict = Verdict()
    bundle, gallery = artifacts(input_kind)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        try:
            replay_recording(
                recording,
                bundle,
                gallery,
                backend=None,
                verify=not is_cut_off,
                skip_damaged=False,
                as_json=True,
            )
        except NeuroFlowError as error:
            verdict.troubles.append(f"{type(error).__name__}: {error}")
    report: dict[str, Any] = json.loads(printed.getvalue() or "{}")
    for one in report.get("runs", ()):
        verdict.compared += one["compared"]
        verdict.differences += one["differences"]
        verdict.left_out += one["left_out"]
        verdict.unended += not one["has_ended"]
        verdict.lacking += one["lacking"]
    verdict.troubles += [str(one) for one in report.get("differences", ())[:3]]
    verdict.troubles += report.get("unlike", ())
    for logged in scan_recording(recording / OUTCOMES):
        if isinstance(logged, Logged) and isinstance(logged.envelope.record, Outcome):
            verdict.recorded += 1
            verdict.volumes.update(_what(logged.envelope.record))
            verdict.updates += isinstance(logged.envelope.record, Update)
    return verdict


def _what(outcome: Outcome) -> list[str]:
    if not isinstance(outcome, VolumeOutcome):
        return []
    by_policy = [reason for reason in outcome.degraded if reason.startswith("LATE_")]
    return [outcome.input, outcome.timing, *by_policy]


def _found(
    tries: int,
    verdicts: list[Verdict],
    kills: Counter[str],
    cuts: int,
    troubles: int,
    examples: list[str],
) -> Finding:
    volumes = sum((one.volumes for one in verdicts), Counter[str]())
    figures: dict[str, Figure] = {
        "recordings": len(verdicts),
        "identical": sum(one.is_identical for one in verdicts),
        "answers_compared": sum(one.compared for one in verdicts),
        "fewest_compared": min((one.compared for one in verdicts), default=0),
        "differences": sum(one.differences for one in verdicts),
        "left_out": sum(one.left_out for one in verdicts),
        "not_compared": sum(one.not_compared for one in verdicts),
        "without_end": sum(one.unended for one in verdicts),
        "never_written": sum(one.lacking for one in verdicts),
        "troubles": troubles,
        "kills": kills.total(),
        **{f"kills_{n}".replace(" ", "_"): kills[n] for n in sorted(kills)},
        "cuts": cuts,
        "updates": sum(one.updates for one in verdicts),
        **{f"volumes_{what.lower()}": volumes[what] for what in sorted(volumes)},
    }
    return Finding(
        figures,
        {
            "recordings": Bound(at_least=tries, at_most=tries),
            "identical": Bound(at_least=tries, at_most=tries),
            "fewest_compared": Bound(at_least=1),
            "differences": NONE,
            "left_out": NONE,
            "not_compared": NONE,
            "troubles": NONE,
            "kills": Bound(at_least=1),
            # A machine with no time between volumes makes none of a few.
            "updates": Bound(at_least=tries // SHORT // 2),
            "volumes_late": Bound(at_least=1),
            "volumes_missing": Bound(at_least=1),
        },
        examples,
    )


FAULT = Fault(
    "replays", "recordings made under faults are replayed, and must be identical", run
)
