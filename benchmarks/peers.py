"""Other decoders and ours on the same participants: accuracy, costs, controls.

    python benchmarks/peers.py --seeds 11 12 13 14 15 16 17 18 19 20 \
        --slow 11 12 13 14 15 16 17 18 19 20 --slow-controls 11 \
        --haxby ../shared/data/haxby2001 --hybrid 1 2 \
        --scratch docs/peers_sheets --out docs/peers

Every peer's answers on every participant are a file in the scratch folder, and work
that is there already is not done again: stop and start as you like, or let a second
process with `--only` or `--peers` do another part. The table is made of all files.
`--slow` names the participants of cortexflowx: the first three where it is left out,
nobody where it stands alone. Its trained controls take as long again, each:
`--slow-controls` names theirs.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from runtime.estimator import VolumeEstimator
from runtime.recording import open_recording
from training.checkpoint import library_versions
from training.dataset import Dataset
from training.haxby import LabelledRuns, read_labelled
from training.peers.comparison import Measure, Row, compare_peers
from training.peers.contract import Peer
from training.peers.exam import (
    Exam,
    fold_exam,
    participant_exam,
    shuffled_dataset,
    without_signal,
)
from training.peers.recipes import CORTEXFLOW, ON_VOLUMES, PEERS, recipes
from training.peers.sheet import (
    Condition,
    Kind,
    Sheet,
    Unit,
    read_sheet,
    sheet,
    write_sheet,
)
from training.peers.subjects import hybrid_dataset, simulated_dataset
from training.peers.table import peers_table
from verbs.demo.summary import machine
from verbs.progress import Screen, screen

CONTROLS: tuple[Condition, ...] = ("shuffled", "no signal")
KINDS: tuple[Kind, ...] = ("simulated", "hybrid", "haxby")
TITLES = {
    "simulated": "Simulated participants",
    "hybrid": "Hybrid participants",
    "haxby": "Recorded volumes, one run left out",
}
MEASURES_OF: dict[Kind, tuple[Measure, ...]] = {
    "simulated": ("picture", "picture of means", "category"),
    "hybrid": ("picture", "picture of means", "category"),
    "haxby": ("category",),
}
CODES = (8, 16)
"""Tokens and width of the categories' codes: those of the preset haxby."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The tables as JSON."""

    machine: list[str]
    versions: dict[str, str]
    rows: dict[str, list[Row]]
    recipes: dict[str, str]


def planned(chosen: argparse.Namespace) -> list[Unit]:
    """Return all the units, what matters most first."""
    seeds, hybrids = chosen.seeds, chosen.hybrid
    cheap = [peer for peer in PEERS if peer != CORTEXFLOW]
    found = [
        Unit(kind="simulated", subject=s, peer=p)
        for s in seeds
        for p in reversed(cheap)
    ]
    if chosen.haxby is not None:
        found += [
            Unit(kind="haxby", subject=1, peer=p, condition=c)
            for c in ("real", *CONTROLS)
            for p in ON_VOLUMES
        ]
        found += [
            Unit(kind="hybrid", subject=s, peer=p, condition=c)
            for s in hybrids
            for c in ("real", *CONTROLS)
            for p in cheap
        ]
    found += [
        Unit(kind="simulated", subject=s, peer=p, condition=c)
        for s in chosen.controls
        for c in CONTROLS
        for p in cheap
    ]
    found += [Unit(kind="simulated", subject=s, peer=CORTEXFLOW) for s in chosen.slow]
    found += [
        Unit(kind="simulated", subject=s, peer=CORTEXFLOW, condition=c)
        for s in chosen.slow_controls
        for c in CONTROLS
    ]
    return [
        unit for unit in found if unit.kind in chosen.only and unit.peer in chosen.peers
    ]


class Exams:
    """Exams of the participant at hand; the last one is kept for the next unit."""

    def __init__(self, haxby: Path, shown: Screen) -> None:
        self._haxby, self._shown = haxby, shown
        self._key: tuple[object, ...] = ()
        self._dataset: Dataset | None = None
        self._runs: LabelledRuns | None = None
        self._exams: list[Exam] = []

    def of(self, unit: Unit) -> list[Exam]:
        """Return the exam of a participant, or those of a recording's folds."""
        key = (unit.kind, unit.subject, unit.condition)
        if key != self._key:
            self._exams = list(self._made(unit))
            self._key = key
        return self._exams

    def _made(self, unit: Unit) -> list[Exam]:
        made = self._folds(unit) if unit.kind == "haxby" else [self._participant(unit)]
        if unit.condition == "no signal":
            rng = np.random.default_rng([unit.subject, 0])
            made = [without_signal(exam, rng) for exam in made]
        return made

    def _folds(self, unit: Unit) -> list[Exam]:
        if self._runs is None:
            self._runs = read_labelled(open_recording(self._haxby))
        return [
            fold_exam(
                self._runs,
                held,
                VolumeEstimator(),
                shape=CODES,
                is_shuffled=unit.condition == "shuffled",
            )
            for held in range(len(self._runs.volumes))
        ]

    def _participant(self, unit: Unit) -> Exam:
        if self._key[:2] != (unit.kind, unit.subject) or self._dataset is None:
            self._shown.stage(f"{unit.kind} participant {unit.subject}")
            place = Path(tempfile.mkdtemp(prefix="peers-"))
            try:
                out = place / "bids"
                if unit.kind == "hybrid":
                    _, self._dataset = hybrid_dataset(out, self._haxby, unit.subject)
                else:
                    _, self._dataset = simulated_dataset(out, unit.subject)
            finally:
                shutil.rmtree(place)
        if unit.condition == "shuffled":
            return participant_exam(shuffled_dataset(self._dataset, unit.subject))
        return participant_exam(self._dataset)


def answered(
    unit: Unit, exams: Sequence[Exam], counted: Callable[[int, int], None]
) -> Sheet:
    """Train a peer on each exam, with its processor time, and ask it."""
    sat = []
    peer = recipe(unit, exams[0])
    for exam in exams:
        began = time.process_time()
        fitted = peer.fit(exam.lesson, counted)
        sat.append((exam, fitted, time.process_time() - began))
    return sheet(unit, repr(peer), machine(), sat)


def recipe(unit: Unit, exam: Exam) -> Peer:
    return recipes(unit.kind, exam.lesson.trials.voxels.shape[1])[unit.peer]


def work(chosen: argparse.Namespace, shown: Screen) -> None:
    exams = Exams(chosen.haxby or Path(), shown)
    units = planned(chosen)
    for number, unit in enumerate(units, start=1):
        place = unit.place(chosen.scratch)
        if place.is_file():
            continue
        made = exams.of(unit)
        shown.stage(
            f"{number} of {len(units)}: {unit.kind} {unit.subject}, {unit.peer}, "
            f"{unit.condition}"
        )
        write_sheet(place, answered(unit, made, shown.count))
        shown.finish()


def collect(chosen: argparse.Namespace) -> None:
    """Print the tables of all the sheets asked for that are there."""
    places = [unit.place(chosen.scratch) for unit in planned(chosen)]
    sheets = [read_sheet(place) for place in places if place.is_file()]
    rows: dict[str, list[Row]] = {}
    for kind in KINDS:
        rows[kind] = compare_peers([s for s in sheets if s.kind == kind], PEERS)
        if rows[kind]:
            measures = MEASURES_OF[kind]
            drawn = "runs" if kind == "haxby" else "participants"
            table = peers_table(rows[kind], measures, drawn)
            print(f"\n### {TITLES[kind]}\n\n{table}")
    missing = len(places) - len(sheets)
    if missing:
        print(f"\n{missing} of {len(places)} parts are not there yet.")
    report = Report(
        machine=sorted({one.machine for one in sheets}),
        versions=library_versions(),
        rows=rows,
        recipes={f"{one.kind}, {one.peer}": one.recipe for one in sheets},
    )
    if chosen.out is not None:
        encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
        chosen.out.with_suffix(".json").write_bytes(encoded + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="*", default=[], help="simulated participants")
    add("--hybrid", type=int, nargs="*", default=[], help="hybrids; need --haxby")
    add("--haxby", type=Path, help="the recording")
    add("--controls", type=int, nargs="*", help="seeds of the trained controls")
    add("--slow", type=int, nargs="*", help="seeds of cortexflowx")
    add(
        "--slow-controls",
        type=int,
        nargs="*",
        default=[],
        help="seeds of cortexflowx's trained controls, none where left out",
    )
    add("--scratch", type=Path, required=True, help="folder of the parts")
    add("--out", type=Path, help="where the figures go, without .json")
    add("--only", nargs="*", choices=KINDS, default=KINDS)
    add("--peers", nargs="*", choices=PEERS, default=PEERS)
    add("--collect", action="store_true", help="make the table of what is there")
    chosen = parser.parse_args()
    if chosen.hybrid and chosen.haxby is None:
        parser.error("--hybrid: expected --haxby as well, found none")
    chosen.controls = chosen.seeds[:3] if chosen.controls is None else chosen.controls
    chosen.slow = chosen.seeds[:3] if chosen.slow is None else chosen.slow
    # One thread: the figures of processor time are then those of wall time as well.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if not chosen.collect:
        with screen() as shown:
            work(chosen, shown)
    collect(chosen)


if __name__ == "__main__":
    main()
