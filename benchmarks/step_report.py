"""What `train_step.py` measured: its records, their file and their table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from runtime.errors import ConfigError

Kind = Literal["eager", "compiled"]
KINDS: tuple[Kind, ...] = ("eager", "compiled")


class Times(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one step."""

    step_s: float
    """All but the next."""
    optimiser_s: float
    """Of optimiser and average."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ours over by hand, round by round."""

    median: float
    min: float
    max: float


class Best(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The quickest arm of either side."""

    ours: str
    by_hand: str
    ratio: Ratio


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement."""

    stage: str
    preset: str
    blocks: int
    """Of the flow, or of each level of NeuroVAE's encoder."""
    batch: int
    precision: str
    checkpoint_activations: bool
    parameters: int
    rounds: int
    median: dict[str, Times]
    ours_over_by_hand: dict[Kind, Ratio]
    best: Best
    peak_rss_mib: float
    """Of the process, all arms together."""
    machine: str
    threads: int
    load_before: list[float]
    load_after: list[float]
    versions: dict[str, str]

    @property
    def size(self) -> tuple[object, ...]:
        """What it is a measurement of."""
        recomputes = self.checkpoint_activations
        return (
            *(self.stage, self.preset, self.blocks, self.batch, self.precision),
            *(recomputes, self.threads),
        )


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What FILE holds."""

    runs: list[Run]


def runs_in(file: Path | None) -> list[Run]:
    """Return what a file has already.

    Raises:
        ConfigError: It is no such report.
    """
    if file is None or not file.is_file():
        return []
    try:
        return msgspec.json.decode(file.read_bytes(), type=Report).runs
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{file}: expected a report of this benchmark, found {error}"
        ) from error


def write_runs(file: Path, runs: Sequence[Run]) -> None:
    """Write measurements as JSON, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(Report(runs=[*runs])), indent=1)
    partial = file.with_suffix(".part")
    partial.write_bytes(text + b"\n")
    partial.replace(file)


def added(runs: Sequence[Run], run: Run) -> list[Run]:
    """Return measurements with one more, in the place of one of the same size."""
    return [*(one for one in runs if one.size != run.size), run]


def markdown(runs: Sequence[Run]) -> str:
    """Return a row for each measurement; ratios as median and range over rounds."""
    lines = [
        "| step | rows | precision | ours, s | by hand, s "
        "| best of ours over best by hand | eager over eager "
        "| compiled over compiled | optimiser and average, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        stage = "stage 2" if run.stage == "flow" else "stage 1"
        blocks = f"{run.blocks} block{'s' if run.blocks > 1 else ''}"
        recomputed = ", recomputed" if run.checkpoint_activations else ""
        best = run.median[run.best.ours], run.median[run.best.by_hand]
        how = [arm.partition(", ")[2] for arm in (run.best.ours, run.best.by_hand)]
        cells = [
            f"{stage}, {run.preset}, {blocks}",
            f"{run.batch}",
            f"{run.precision}{recomputed}",
            *(
                f"{one.step_s:.3g} ({kind})"
                for one, kind in zip(best, how, strict=True)
            ),
            _said(run.best.ratio),
            *(_said(run.ours_over_by_hand.get(kind)) for kind in KINDS),
            " and ".join(f"{one.optimiser_s:.2g}" for one in best),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _said(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio.median:.3f} [{ratio.min:.3f}, {ratio.max:.3f}]"
