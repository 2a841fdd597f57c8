"""The judge: how far a model is from its golden vectors, and whether that may pass.

Export judges by it before a bundle is written, a rig when it opens or verifies one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, final, runtime_checkable

import numpy as np

from runtime.arrays import Float32, Shaped
from runtime.errors import BundleError, ParityError
from runtime.manifest import GOLDEN, GateSpec, GraphPrecision
from runtime.solver import Direction

Map = Callable[[Any], Shaped[np.ndarray, "..."]]
STATES: Final[Mapping[Direction, str]] = MappingProxyType(
    {"decode": "decode_states", "encode": "encode_states"}
)
"""Golden vectors of the flow's state after each step ``[k, steps, tokens, width]``, of
the first samples. Bundles of before have none."""


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What a result must keep to pass; a number that is not finite never passes."""

    rel_l2: float | None = None
    """At most this relative L2 error."""
    cosine: float | None = None
    """At least this cosine."""

    def __str__(self) -> str:
        parts = []
        if self.rel_l2 is not None:
            parts.append(f"relative L2 error <= {self.rel_l2:g}")
        if self.cosine is not None:
            parts.append(f"cosine >= {self.cosine:g}")
        return " and ".join(parts)


_HALF: Final = Limits(rel_l2=1e-2, cosine=0.9995)
_EIGHT_BITS: Final = Limits(cosine=0.997)
LIMITS: Final[Mapping[GraphPrecision, Limits]] = MappingProxyType(
    {
        "f32": Limits(rel_l2=1e-5),
        "f16": _HALF,
        "bf16": _HALF,
        "int8": _EIGHT_BITS,
        "fp8": _EIGHT_BITS,
    }
)
"""The gate of a precision: of each map, after each step and at the end."""
BY_HINT: Final = Limits(rel_l2=5e-2)
"""Of a float32 graph that an engine was told to compute in half. A written half graph
rounds where export chose to, at products; a library that is told rounds everywhere, in
sums, normalisations and convolutions too. That makes a bfloat16 velocity up to two
thirds worse and takes some thirty convolutions in a row to 2.9e-2 (`export.precision`),
which the gate of a written graph, 1e-2, would never let pass. An engine that gives
nothing at all is at 1."""


def limits_of(written: GraphPrecision, precision: GraphPrecision) -> Limits:
    """Return what an engine must keep, which computes a graph in a precision.

    Args:
        written: What the graph's file says.
        precision: What the engine computes in.
    """
    return LIMITS[precision] if written == precision else BY_HINT


def limits_for(limits: Limits | Mapping[str, Limits], name: str) -> Limits:
    """Return what one result must keep.

    Args:
        limits: Of all results alike, or of each map by its name.
        name: Of a map, or of a step of it, such as ``decode_flow.step_1``.
    """
    return limits if isinstance(limits, Limits) else limits[name.partition(".")[0]]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a result is from its float64 reference."""

    name: str
    rel_l2: float
    """Norm of the difference over the norm of the reference; inf if not finite."""
    cosine: float
    """nan if not finite."""
    nonfinite: int
    """How many numbers are not finite."""

    def is_within(self, limits: Limits) -> bool:
        """Say whether the result may pass."""
        return (
            self.nonfinite == 0
            and (limits.rel_l2 is None or self.rel_l2 <= limits.rel_l2)
            and (limits.cosine is None or self.cosine >= limits.cosine)
        )

    def require(self, limits: Limits, remedy: str = "") -> None:
        """Refuse a result beyond its limits.

        Raises:
            ParityError: Naming the result, the limits and what was reached.
        """
        if not self.is_within(limits):
            end = f". {remedy}" if remedy else ""
            broken = f", {self.nonfinite} non-finite" if self.nonfinite else ""
            raise ParityError(
                f"{self.name}: expected {limits}, found relative L2 error "
                f"{self.rel_l2:.3g}, cosine {self.cosine:.6f}{broken}{end}"
            )

    def gates(self, precision: GraphPrecision) -> tuple[GateSpec, ...]:
        """Return what a manifest keeps of a result in a precision.

        Raises:
            ParityError: The gate of the precision is not kept.
        """
        limits = LIMITS[precision]
        self.require(limits)
        rows: list[tuple[Literal["rel_l2", "cosine", "nonfinite"], float, float]] = [
            ("nonfinite", 0.0, float(self.nonfinite))
        ]
        if limits.cosine is not None:
            rows.insert(0, ("cosine", limits.cosine, self.cosine))
        if limits.rel_l2 is not None:
            rows.insert(0, ("rel_l2", limits.rel_l2, self.rel_l2))
        return tuple(
            GateSpec(
                name=self.name,
                metric=metric,
                limit=limit,
                reached=reached,
                precision=precision,
            )
            for metric, limit, reached in rows
        )


def judge(
    name: str, reference: Shaped[np.ndarray, "..."], found: Shaped[np.ndarray, "..."]
) -> Verdict:
    """Compare a result with its reference in float64.

    Raises:
        ParityError: Another shape, or a reference that is zero or not finite.
    """
    if reference.shape != found.shape:
        raise ParityError(
            f"{name}: expected shape {list(reference.shape)}, found {list(found.shape)}"
        )
    wide, other = reference.astype(np.float64), found.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    if not np.isfinite(norm) or norm == 0:
        raise ParityError(
            f"{name}: expected a finite reference that is not zero, found norm {norm}"
        )
    nonfinite = int(np.count_nonzero(~np.isfinite(other)))
    if nonfinite:
        return Verdict(name, float("inf"), float("nan"), nonfinite)
    rel_l2 = float(np.linalg.norm(other - wide)) / norm
    size = float(np.linalg.norm(other))
    cosine = float(np.vdot(wide, other)) / (norm * size) if size else 0.0
    return Verdict(name, rel_l2, cosine, 0)


def worst(name: str, verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of several samples, each figure by itself."""
    return Verdict(
        name,
        max(verdict.rel_l2 for verdict in verdicts),
        # Not a number is worse than any.
        min((verdict.cosine for verdict in verdicts), key=lambda c: (c == c, c)),
        sum(verdict.nonfinite for verdict in verdicts),
    )


@runtime_checkable
class Judged(Protocol):
    """What is judged: a model whose maps name their golden vectors."""

    def maps(self) -> Mapping[str, tuple[Map, str, str]]:
        """Return each map with the golden vectors that are its input and output."""
        ...

    def states(
        self, z: Float32[np.ndarray, "tokens width"], direction: Direction
    ) -> Float32[np.ndarray, "steps tokens width"]:
        """Return the flow's state after each step."""
        ...


def map_verdicts(
    maps: Mapping[str, tuple[Map, str, str]],
    golden: Mapping[str, Shaped[np.ndarray, "..."]],
) -> Iterator[Verdict]:
    """Judge each map by its worst golden sample.

    Raises:
        BundleError: A golden vector is missing, or they are not one for each sample.
        ParityError: One has another shape than what the map gives, or is zero.
    """
    for name, (run, source, target) in maps.items():
        _check_pair(golden, source, target)
        yield worst(
            name,
            [
                judge(name, wanted, run(sample.astype(np.float32)))
                for sample, wanted in zip(golden[source], golden[target], strict=True)
            ],
        )


def _check_pair(
    golden: Mapping[str, Shaped[np.ndarray, "..."]], source: str, target: str
) -> None:
    for name in (source, target):
        if name not in golden or not golden[name].shape:
            found = ", ".join(key for key in sorted(golden) if golden[key].shape)
            raise BundleError(f"{GOLDEN}: expected {name}, found {found or 'none'}")
    wanted, count = len(golden[source]), len(golden[target])
    if wanted != count:
        raise BundleError(
            f"{GOLDEN}: {target}: expected {wanted} samples as of {source}, "
            f"found {count}"
        )


def step_verdicts(
    model: Judged, golden: Mapping[str, Shaped[np.ndarray, "..."]]
) -> Iterator[Verdict]:
    """Judge the flow after each step of either direction; nothing where no golden is.

    Args:
        model: It runs the flow step by step.
        golden: A bundle's golden vectors.

    Raises:
        BundleError: The states are not those of golden samples.
        ParityError: Another number of steps than the golden vectors have.
    """
    for direction, name in STATES.items():
        if name not in golden:
            continue
        source = "z_n" if direction == "decode" else "z_v"
        wanted = golden[name]
        if (
            wanted.ndim != 4
            or source not in golden
            or len(wanted) > len(golden[source])
        ):
            raise BundleError(
                f"{GOLDEN}: {name}: expected the states of samples of {source}, "
                f"found shape {list(wanted.shape)}"
            )
        found = np.stack(
            [
                model.states(z.astype(np.float32), direction)
                for z in golden[source][: len(wanted)]
            ]
        )
        if found.shape != wanted.shape:
            raise ParityError(
                f"{name}: expected shape {list(wanted.shape)}, "
                f"found {list(found.shape)}"
            )
        for step in range(wanted.shape[1]):
            label = f"{direction}_flow.step_{step + 1}"
            pairs = zip(wanted[:, step], found[:, step], strict=True)
            yield worst(label, [judge(label, a, b) for a, b in pairs])


def check_golden(
    model: Judged,
    golden: Mapping[str, Shaped[np.ndarray, "..."]],
    limits: Limits | Mapping[str, Limits],
    backend: str,
    samples: int | None = None,
) -> None:
    """Refuse a model that does not compute its golden vectors.

    Args:
        model: Opened engines.
        golden: A bundle's golden vectors.
        limits: What each map must keep, or what each must by its name:
            `runtime.graphs.map_limits`.
        backend: Named in the error.
        samples: How many of them, from the first; None takes all.

    Raises:
        ParityError: Naming the first map beyond the limits.
    """
    if samples is not None:
        golden = {
            name: array[:samples] if array.ndim else array
            for name, array in golden.items()
        }
    for verdict in map_verdicts(model.maps(), golden):
        named = Verdict(
            f"golden {verdict.name} ({backend})",
            verdict.rel_l2,
            verdict.cosine,
            verdict.nonfinite,
        )
        named.require(
            limits_for(limits, verdict.name),
            "Export again on this kind of machine, or choose another backend or "
            "precision.",
        )
