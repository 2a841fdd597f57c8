"""What the operator announces of the runs to come."""

import math
from dataclasses import dataclass

import numpy as np

from bci_bridge.budget import budget_at
from bci_bridge.header import MAX_SIDE, LatePolicy, Pace
from bci_bridge.messages import RunStart, slice_times_us
from bci_bridge.names import BIDS, require_name
from bci_bridge.sources.volume import Geometry
from runtime.arrays import Float64
from runtime.errors import UsageError

MAX_TR_S = 60.0
_MAX_NAME = 120
"""Of a run's name: the wire's 128, less room for the number of a repetition."""
TR_TOLERANCE_S = 1e-3
"""Scanners and their adapters round a TR to milliseconds."""
AFFINE_TOLERANCE_MM = 1e-3
"""Of every corner of the volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be sent; the rest is learned from a run's first volume."""

    run: str
    """Name of the first run; those that follow are `run-2`, `run-3`, ..."""
    volumes: int
    """Acquisitions of a run, the discarded ones not counted."""
    runs: int = 1
    """Complete runs to send."""
    discard: int = 0
    """Acquisitions before the one that is volume 0."""
    tr_s: float | None = None
    """Overrides what the source says."""
    budget_s: float | None = None
    """Deadline after the end of acquisition; a TR by default."""
    speed: float = 1.0
    """Of a recording that is played; slower than 1, each answer has more time."""
    pace: Pace = "live"
    subject: str = ""
    session: str = ""
    task: str = ""
    is_rehearsal: bool = False
    quiet_s: float = 30.0
    """So long without a volume ends a run as aborted."""
    updates: bool = False
    """Ask for earlier estimates of trials."""
    late: LatePolicy = "flag"
    """What becomes of answers after their deadline."""
    reorder: int = 3
    """How many volumes may be held while an earlier one is awaited."""

    def __post_init__(self) -> None:
        require_name("--run", self.run)
        for what, value in (
            ("--subject", self.subject),
            ("--session", self.session),
            ("--task", self.task),
        ):
            require_name(what, value, BIDS)
        if len(self.run) > _MAX_NAME:
            raise UsageError(
                f"--run: expected up to {_MAX_NAME} characters, because RUN-2 and so "
                f"on may follow, found {len(self.run)}"
            )
        for what, found, low, high in (
            ("--volumes", self.volumes, 1, 100_000),
            ("--runs", self.runs, 1, 1000),
            ("--discard", self.discard, 0, 1000),
            ("--tr-s", self.tr_s, 0.001, MAX_TR_S),
            ("--budget-s", self.budget_s, 0.001, 600),
            ("--quiet-s", self.quiet_s, 0.1, 3600),
            ("--reorder", self.reorder, 0, 64),
        ):
            if found is not None and not low <= found <= high:
                raise UsageError(f"{what}: expected {low} to {high}, found {found}")

    def name(self, n_begun: int) -> str:
        """Name a run by how many have begun, itself included."""
        return self.run if n_begun <= 1 else f"{self.run}-{n_begun}"

    def start(self, name: str, geometry: Geometry) -> RunStart:
        """Announce a run of which the first volume has arrived."""
        tr_s = self.tr_s_of(geometry)
        times_s = (geometry.slice_times_s or ()) if geometry.slice_axis == 2 else ()
        if not all(0 <= time_s <= tr_s for time_s in times_s):
            times_s = ()  # those of another TR: nobody knows
        return RunStart(
            run=name,
            shape=geometry.shape,
            tr_s=tr_s,
            expected_volumes=self.volumes,
            budget_s=budget_at(self.speed, tr_s, self.budget_s),
            pace=self.pace,
            affine=tuple(float(entry) for entry in geometry.affine.flat),
            subject=self.subject,
            session=self.session,
            task=self.task,
            is_rehearsal=self.is_rehearsal,
            slice_times_us=slice_times_us(times_s),
            updates=self.updates,
            late=self.late,
            # No source has any: a bundle that asks for them refuses the run.
            confound_names=(),
        )

    def patience_s(self, start: RunStart) -> float:
        """Say how long without a volume ends a run as aborted."""
        return max(self.quiet_s, 2 * start.tr_s / min(self.speed, 1.0))

    def tr_s_of(self, geometry: Geometry) -> float:
        """Say which TR counts."""
        return float(geometry.tr_s if self.tr_s is None else self.tr_s)

    def unfit(self, geometry: Geometry) -> str:
        """Say why no run can have this geometry; empty where one can."""
        if not all(1 <= side <= MAX_SIDE for side in geometry.shape):
            return f"shape: expected sides of 1 to {MAX_SIDE}, found {geometry.shape}"
        if not np.isfinite(geometry.affine).all():
            return "affine: expected finite numbers, found others"
        tr_s = self.tr_s_of(geometry)
        if math.isnan(tr_s):
            return "TR: expected seconds, found none told. Give --tr-s"
        if not 0 < tr_s <= MAX_TR_S:
            return f"TR: expected up to {MAX_TR_S:g} s, found {tr_s:g} s. Give --tr-s"
        return ""

    def difference(self, start: RunStart, geometry: Geometry) -> str:
        """Say how a volume's geometry differs from its run's; empty where it fits."""
        if geometry.shape != start.shape:
            return f"shape: expected {list(start.shape)}, found {list(geometry.shape)}"
        tr_s = self.tr_s_of(geometry)
        if abs(tr_s - start.tr_s) > TR_TOLERANCE_S:
            return f"TR: expected {start.tr_s:g} s, found {tr_s:g} s"
        if start.affine is None:
            return ""
        moved_mm = _moved_mm(
            np.array(start.affine).reshape(4, 4), geometry.affine, start.shape
        )
        if not moved_mm <= AFFINE_TOLERANCE_MM:
            return (
                "affine: expected that of the run's first volume, found corners "
                f"{moved_mm:.3g} mm away"
            )
        return ""


def _moved_mm(
    one: Float64[np.ndarray, "4 4"],
    other: Float64[np.ndarray, "4 4"],
    shape: tuple[int, int, int],
) -> float:
    """Give the longest way that a corner of the volume goes between two affines."""
    ends = [(0.0, size - 1.0) for size in shape]
    corners = np.array([(*at, 1.0) for at in _product(*ends)])
    return float(np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max())


def _product(
    xs: tuple[float, float], ys: tuple[float, float], zs: tuple[float, float]
) -> list[tuple[float, float, float]]:
    return [(x, y, z) for x in xs for y in ys for z in zs]
