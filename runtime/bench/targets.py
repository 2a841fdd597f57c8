"""The figures that this project set itself, held against a result. Pure.

They are stated at the paper's size (256 x 1664, 12 blocks) and mostly for bfloat16. A
machine that cannot do that says so, and shows what float32 gives there instead.
"""

from collections.abc import Collection, Iterable, Sequence
from types import MappingProxyType
from typing import Final

from runtime.bench.figures import STEP, limits_ns, multiple, no_slope, values
from runtime.bench.result import COMPILED, EAGER, TORCH, Result, Who
from runtime.bench.statistics import Interval, median_interval, ratio
from runtime.bench.table import markdown, number, within
from runtime.timing import PER_MILLE, percentile

PAPER: Final = (256, 1664, 12)
"""Tokens, width and blocks."""
VOXELS: Final = 15_724
"""Of the paper's first participant, for whom the encoder's target is set."""
AROUND: Final = MappingProxyType(
    {
        "volume": "a volume around the engines, no trial due",
        "volume due": "a volume around the engines, a trial due",
    }
)
"""Stages that are ours alone, and what a row calls them."""
CALLS: Final = 10_000
"""Of them, before their p99 is said to be reached."""
_SERVED: Final = frozenset({"encoder", STEP})
"""Whose weights a process that serves has in memory: it predicts no voxels."""
_BF16: Final = ("amx_bf16", "avx512_bf16", "bf16")


def _disturbed(found: Interval | None, least: int) -> str | None:
    """Say that a multiple of the limit is too good to be true, where it is.

    As it is where all of its interval is: rounds differ, and one that is at its limit
    is below it half of the time.
    """
    if found is None or found.median >= least:
        return None
    if found.high is not None and found.high >= least:
        return None
    return f"its limit was disturbed: less than {least} is impossible"


def targets(result: Result) -> str:
    """Return one row for each target: its figure, or why there is none."""
    heads = ["figure", "to reach", "found here", "verdict"]
    return markdown(heads, _Targets(result).rows())


class _Targets:
    def __init__(self, result: Result) -> None:
        self._result, self._values = result, values(result)
        ours = result.steps[0].who if result.steps else None
        self._ours = ours
        self._theirs = {
            (who.peer, who.precision): who
            for _, who in self._values
            if ours is not None and who.threads == ours.threads and who != ours
        }

    def rows(self) -> Sequence[Sequence[str]]:
        small = self._on_gpu() or self._not_the_paper()
        bf16 = self._on_gpu() or self._no_bf16()
        return [
            self._row(
                "flow step over the limit of its products",
                1.15,
                self._multiple(STEP),
                self._flat([self._ours])
                or bf16
                or small
                or _disturbed(self._multiple(STEP), 1),
            ),
            self._torch("flow step over torch's best", STEP, bf16 or small),
            self._row(
                "flow step over ONNX Runtime f32",
                0.08,
                self._over(STEP, "ort", "f32"),
                self._flat([self._ours, self._theirs.get(("ort", "f32"))])
                or bf16
                or small,
            ),
            self._row(
                "int8 flow step over ours",
                0.62,
                self._int8(),
                self._flat([self._ours, self._eight_bits()]) or bf16 or small,
            ),
            self._decode(small),
            self._torch(
                "voxel encoder over torch's best",
                "encoder",
                bf16 or self._not_the_paper(shape_only=True) or self._other_voxels(),
            ),
            self._memory(bf16 or small),
            self._cold(small),
            # The blocks are the engine's; around it only the latent's shape counts.
            *(
                self._around(stage, name, self._not_the_paper(shape_only=True))
                for stage, name in AROUND.items()
            ),
        ]

    def _on_gpu(self) -> str | None:
        if self._ours is None or not self._ours.is_on_gpu:
            return None
        return "a GPU computed, and the targets are a processor's"

    def _no_bf16(self) -> str | None:
        sets = self._result.machine.instruction_sets
        if not any(name in sets for name in _BF16):
            return "this machine has no bfloat16"
        if self._ours is None or self._ours.precision != "bf16":
            return "this run computed in float32"
        return None

    def _not_the_paper(self, *, shape_only: bool = False) -> str | None:
        sizes = self._result.sizes
        found = None if sizes is None else (sizes.tokens, sizes.width, sizes.depth)
        if shape_only and found is not None and found[:2] == PAPER[:2]:
            return None
        return None if found == PAPER else f"{self._result.subject} is another size"

    def _other_voxels(self) -> str | None:
        sizes = self._result.sizes
        if sizes is None or sizes.voxels == VOXELS:
            return None
        return f"{self._result.subject} has {sizes.voxels:,} voxels and not {VOXELS:,}"

    def _row(
        self, name: str, limit: float, found: Interval | None, excuse: str | None
    ) -> list[str]:
        shown = within(found)
        if self._ours is not None:
            shown += f" ({self._ours.precision})"
        if found is None:
            why = excuse or "this run had nothing to compare with"
            return [name, f"<= {number(limit)}", "-", f"not run here, because {why}"]
        if excuse is not None:
            verdict = f"not run here, because {excuse}"
        else:
            verdict = "reached" if found.median <= limit else "missed"
        return [name, f"<= {number(limit)}", shown, verdict]

    def _flat(self, whos: Iterable[Who | None]) -> str | None:
        """Say whose step is no figure, if anybody's is none."""
        for who in whos:
            slopes = None if who is None else self._values.get((STEP, who))
            why = None if slopes is None else no_slope(slopes)
            if why is not None:
                return f"of {who} {why}"
        return None

    def _multiple(self, stage: str) -> Interval | None:
        if self._ours is None or self._flat([self._ours]):
            return None
        return multiple(
            self._result, stage, self._ours, self._values[stage, self._ours]
        )

    def _over(self, stage: str, peer: str, precision: str) -> Interval | None:
        who = self._theirs.get((peer, precision))
        return None if who is None else self._ratio(stage, who)

    def _eight_bits(self) -> Who | None:
        ours = self._ours
        return None if ours is None else self._theirs.get((ours.peer, "int8"))

    def _int8(self) -> Interval | None:
        """Return the same engine's step in 8 bits over ours."""
        who = self._eight_bits()
        return None if who is None else self._quotient(STEP, who, self._ours)

    def _torch(self, name: str, stage: str, excuse: str | None) -> list[str]:
        """Return a row beside torch's best, with the forms of torch that were there."""
        found = {
            who: ratio
            for who in self._theirs.values()
            if who.peer in TORCH and (ratio := self._ratio(stage, who)) is not None
        }
        # Against the best of them our ratio is the largest.
        best = max(found.values(), key=lambda one: one.median, default=None)
        if stage == STEP:
            # Whoever has no figure may be the best of them.
            torch = (who for who in self._theirs.values() if who.peer in TORCH)
            flat = self._flat([self._ours, *torch])
            best, excuse = (None, flat) if flat else (best, excuse)
        row = self._row(name, 0.45, best, excuse or self._absent(found))
        if best is not None:
            row[2] += f" over {', '.join(f'{w.peer} {w.precision}' for w in found)}"
        return row

    def _absent(self, found: Collection[Who]) -> str | None:
        """Say which forms of torch would have to be there as well, if any."""
        if self._ours is None or not found:
            return None
        precision = self._ours.precision
        wanted = TORCH if precision == "bf16" else (EAGER, COMPILED)
        there = {who.peer for who in found if who.precision == precision}
        absent = [peer for peer in wanted if peer not in there]
        if not absent:
            return None
        return (
            f"{' and '.join(absent)} {precision} may be torch's best and was not there"
        )

    def _ratio(self, stage: str, who: Who) -> Interval | None:
        return None if self._ours is None else self._quotient(stage, self._ours, who)

    def _quotient(self, stage: str, who: Who, over: Who | None) -> Interval | None:
        """Return one engine's stage over another's; None where one has no figure."""
        whos = (who, over)
        if stage == STEP and self._flat(whos):
            return None
        times = [self._values.get((stage, w), []) for w in whos if w is not None]
        if len(times) < 2 or len(times[0]) != len(times[1]) or not times[0]:
            return None
        return ratio(*times)

    def _decode(self, excuse: str | None) -> list[str]:
        n = self._result.decode_evaluations
        limit = 1.15 * (n + 0.35)
        name = (
            f"decode of a trial, N = {n}, over the limit of one evaluation's products"
        )
        found = None
        if self._ours is not None and ("decode", self._ours) in self._values:
            times = self._values["decode", self._ours]
            units = limits_ns(self._result, STEP, self._ours)
            if units is not None and len(units) == len(times):
                found = ratio(times, units)
        return self._row(name, limit, found, excuse or _disturbed(found, n))

    def _memory(self, excuse: str | None) -> list[str]:
        name = "resident memory of the process that serves"
        process = next((p for p in self._result.processes if p.who == self._ours), None)
        work = self._result.work
        if process is None or not work.keys() >= _SERVED:
            why = excuse or "the model's sizes are not known"
            return [name, "-", "-", f"not run here, because {why}"]
        weights = sum(work[stage].weights for stage in _SERVED)
        limit = 1.3 * 2 * weights + 500e6
        verdict = "reached" if process.resident_bytes <= limit else "missed"
        return [
            name,
            f"<= {number(limit / 1e6)} MB (1.3 x its weights in bf16 + 500 MB)",
            f"{number(process.resident_bytes / 1e6)} MB",
            verdict if excuse is None else f"not run here, because {excuse}",
        ]

    def _cold(self, excuse: str | None) -> list[str]:
        name = "cold start to the first answer, from cache, s"
        process = next((p for p in self._result.processes if p.who == self._ours), None)
        if process is None or not process.cached_ns:
            return self._row(name, 5.0, None, excuse)
        if process.uncached:
            why = f"no start was from cache: {process.uncached}"
            return self._row(name, 5.0, None, why)
        starts = [ns / 1e9 for ns in process.cached_ns]
        middle = median_interval(starts)
        found = Interval(median=middle.median, low=min(starts), high=max(starts))
        return self._row(name, 5.0, found, excuse)

    def _around(self, stage: str, name: str, excuse: str | None) -> list[str]:
        name = f"{name}, p99, ms"
        samples = sorted(
            ns
            for series in self._result.series
            if series.stage == stage and series.who == self._ours
            for one in series.rounds_ns
            for ns in one
        )
        # The highest percentile of those that may be stated, up to p99.
        stated = [
            (label, ns)
            for label, per_mille in PER_MILLE.items()
            if per_mille <= 990 and (ns := percentile(samples, per_mille)) is not None
        ]
        label, found = stated[-1] if stated else ("", 0)
        # What a lower percentile is beyond, p99 is beyond as well.
        is_beyond = found > 1_000_000
        if label != "p99" and (not is_beyond or excuse is not None):
            few = f"{len(samples)} calls are too few for p99"
            why = excuse or (few if samples else "this run did not measure it")
            return [name, "<= 1.00", "-", f"not run here, because {why}"]
        of = f"{len(samples):,} calls" + ("" if label == "p99" else f": {label}")
        shown = f"{number(found / 1e6)} ({of})"
        if excuse is not None:
            verdict = f"not run here, because {excuse}"
        elif is_beyond:
            verdict = "missed"
        elif len(samples) < CALLS:
            verdict = f"not run here, because {CALLS:,} calls are wanted"
        else:
            verdict = "reached"
        return [name, "<= 1.00", shown, verdict]
