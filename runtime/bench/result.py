"""What `neuroflow bench` keeps: every raw sample, and what it takes to judge them.

Pure: bytes in, structs out. Durations are integer nanoseconds.
"""

from typing import Annotated, Final, Literal

import msgspec

from runtime.bench.limits import Rate
from runtime.bench.machine import Machine, Moment
from runtime.bench.work import Sizes, Work
from runtime.errors import ArtifactError
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

Ns = Annotated[int, msgspec.Meta(ge=0)]


class Who(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engine did it, and how."""

    peer: str
    """A backend of the runtime, or one of `TORCH`."""
    precision: str
    threads: int

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
    rounds_ns: tuple[tuple[Ns, ...], ...]
    cpu_ns: tuple[Ns, ...]
    """Processor time of all threads in each round."""


class Steps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Flows of several lengths: T(N) for each N, in each round."""

    who: Who
    evaluations: tuple[int, ...]
    rounds_ns: tuple[tuple[Ns, ...], ...]


class PacedSeries(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One stage at the pace of a scanner."""

    stage: str
    who: Who
    period_ns: Ns
    deadline_ns: Ns
    paced: Paced


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process of its own that opens the bundle as a server does, and answers once."""

    who: Who
    fresh_ns: Ns
    """From its start to its first answer, nothing cached."""
    cached_ns: tuple[Ns, ...]
    """The same with what the first start left behind."""
    resident_bytes: int
    """After the first answer."""
    peak_bytes: int


class LimitRound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the machine reached in one round."""

    flop: Rate
    memory: Rate


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What its processor can do with some threads, measured between the engines."""

    threads: int
    precision: str
    rounds: tuple[LimitRound, ...]


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run."""

    schema: Literal["neuroflow.bench/1"] = SCHEMA
    created: str
    """ISO date."""
    subject: str
    """Preset or bundle that was measured."""
    sizes: Sizes | None
    """None where the sizes of a bundle's model are not known here."""
    gallery: int
    """Items that the heads search."""
    decode_evaluations: int
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
        return msgspec.json.decode(data, type=Result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ArtifactError(
            f"{source}: expected a file of neuroflow bench --json, found: {why}"
        ) from error


def encode_result(result: Result) -> bytes:
    """Return a result as JSON, one line."""
    return msgspec.json.encode(result) + b"\n"
