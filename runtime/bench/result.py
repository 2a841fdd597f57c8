"""What `neuroflow bench` keeps: every raw sample, and what it takes to judge them.

Pure: bytes in, structs out. Durations are integer nanoseconds.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from runtime.bench.limits import Rate
from runtime.bench.machine import Machine, Moment
from runtime.bench.statistics import check_counts
from runtime.bench.work import BYTES_OF, Count, OrNone, Sizes, Work
from runtime.errors import ArtifactError, UsageError
from runtime.estimator import Estimator
from runtime.timing import Paced

SCHEMA: Final = "neuroflow.bench/1"
MOST_BYTES: Final = 256 * 1024**2

EAGER: Final = "torch"
COMPILED: Final = "torch-compile"
AUTOCAST: Final = "torch-autocast"
TORCH: Final = (EAGER, COMPILED, AUTOCAST)
"""The forms in which torch is a peer. In bfloat16 the first two have their weights in
it, the third has them in float32; in float32 that is no form of its own."""

ON_GPU: Final = ("ort_cuda", "tensorrt")
"""Backends to which the limits of a processor say nothing."""

MOST_NS: Final = 10**18
"""Thirty years; what is longer is no measurement, and no float64 either."""
Ns = Annotated[int, msgspec.Meta(ge=0, le=MOST_NS)]
Took = Annotated[int, msgspec.Meta(ge=1, le=MOST_NS)]
"""How long something took: never no time at all, by which others are divided."""
Round = Annotated[tuple[Took, ...], msgspec.Meta(min_length=1)]
Rounds = Annotated[tuple[Round, ...], msgspec.Meta(min_length=1)]
Known = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(BYTES_OF)})$")]
"""A precision whose bytes are known."""
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Who(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engine did it, and how."""

    peer: str
    """A backend of the runtime, or one of `TORCH`."""
    precision: Known
    threads: Count

    @property
    def is_on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.peer in ON_GPU

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        return f"{self.peer} {self.precision}, {self.threads} thread{plural}"


class Series(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage, call after call, in rounds that took turns with the other engines."""

    stage: str
    who: Who
    rounds_ns: Rounds
    cpu_ns: tuple[Ns, ...]
    """Processor time of all threads in each round."""


class Steps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Flows of several lengths: T(N) for each N, in each round."""

    who: Who
    evaluations: tuple[Count, ...]
    rounds_ns: Rounds


class PacedSeries(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One stage at the pace of a scanner."""

    stage: str
    who: Who
    period_ns: Took
    deadline_ns: Took
    paced: Paced


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process of its own that opens the bundle as a server does, and answers once."""

    who: Who
    fresh_ns: Took
    """From its start to its first answer, nothing cached."""
    cached_ns: tuple[Took, ...]
    """The same with what the first start left behind."""
    uncached: str = ""
    """Why that was not all the engines, so that those starts are none from cache; empty
    where they are."""
    resident_bytes: OrNone
    """After the first answer."""
    peak_bytes: OrNone


class LimitRound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the machine reached in one round."""

    flop: Rate
    memory: Rate


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What its processor can do with some threads, measured between the engines."""

    threads: Count
    precision: Known
    rounds: Annotated[tuple[LimitRound, ...], msgspec.Meta(min_length=1)]


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run."""

    schema: Literal["neuroflow.bench/1"] = SCHEMA
    created: str
    """ISO date."""
    subject: str
    """Preset or bundle that was measured."""
    sizes: Sizes | None
    """None where the sizes of a bundle's model are not known here."""
    bundle_sha256: Digest | None = None
    """Of its manifest, which names a bundle; None for a preset, whose weights are
    drawn, and in files of before."""
    solver: str | None = None
    """Of the decode direction; None in files of before."""
    estimator: Estimator | None = None
    """How the input is made of volumes; None in files of before."""
    gallery: Count
    """Items that the heads search."""
    decode_evaluations: Count
    """Velocity evaluations of the stage ``decode``."""
    machine: Machine
    before: Moment
    after: Moment
    steal: float | None
    """Share of processor time that others took during the run."""
    work: dict[str, Work]
    """By stage; a stage that is missing has no limit."""
    limits: tuple[Limits, ...]
    series: tuple[Series, ...]
    steps: tuple[Steps, ...]
    paced: tuple[PacedSeries, ...]
    processes: tuple[Process, ...]


class _Head(msgspec.Struct, frozen=True):
    schema: str = "none"


def decode_result(data: bytes, source: str) -> Result:
    """Decode a file of ``neuroflow bench --json``.

    Args:
        data: The file's bytes.
        source: Its name, for the message.

    Raises:
        ArtifactError: Too large, not JSON, of another schema, or damaged.
    """
    if len(data) > MOST_BYTES:
        raise ArtifactError(
            f"{source}: expected at most {MOST_BYTES} bytes, found more"
        )
    try:
        found = msgspec.json.decode(data, type=_Head).schema
        if found != SCHEMA:
            raise ArtifactError(
                f"{source}: expected schema {SCHEMA}, found {found}. "
                "Measure again with this version."
            )
        result = msgspec.json.decode(data, type=Result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ArtifactError(
            f"{source}: expected a file of neuroflow bench --json, found: {why}"
        ) from error
    trouble = next(_troubles(result), None)
    if trouble is not None:
        raise ArtifactError(
            f"{source}: expected a file of neuroflow bench --json, found: {trouble}"
        )
    return result


def _troubles(result: Result) -> Iterator[str]:
    """Say what fields contradict each other, which no field tells alone."""
    names = [f"{one.stage} of {one.who}" for one in result.series]
    names += [f"the steps of {one.who}" for one in result.steps]
    yield from (f"{n} twice" for n in dict.fromkeys(names) if names.count(n) > 1)
    for series in result.series:
        if len(series.cpu_ns) != len(series.rounds_ns):
            yield (
                f"{len(series.rounds_ns)} rounds of {series.stage} of {series.who}, "
                f"and processor time of {len(series.cpu_ns)}"
            )
    for steps in result.steps:
        try:
            check_counts(steps.evaluations)
        except UsageError as error:
            yield f"the steps of {steps.who}: {error}"
        if any(len(one) != len(steps.evaluations) for one in steps.rounds_ns):
            yield (
                f"a round of the steps of {steps.who} without one time for each of its "
                f"{len(steps.evaluations)} evaluations"
            )
    for one in result.paced:
        if not one.paced.latency_ns or min(one.paced.latency_ns) < 1:
            yield f"{one.stage} of {one.who} at the scanner's pace without latencies"
        if not 0 <= one.paced.misses <= len(one.paced.latency_ns):
            yield f"{one.paced.misses} of {len(one.paced.latency_ns)} latencies late"
    if any(work.flop + work.weights == 0 for work in result.work.values()):
        yield "a stage that has no work"


def encode_result(result: Result) -> bytes:
    """Return a result as JSON, one line."""
    return msgspec.json.encode(result) + b"\n"
