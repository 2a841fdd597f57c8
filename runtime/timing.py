"""Latencies: how they are taken and which of their percentiles may be stated.

Clock and waiting are arguments. Instants and durations are integer nanoseconds.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from runtime.errors import UsageError

Clock = Callable[[], int]
"""Monotonic nanoseconds."""

PER_MILLE: Final = MappingProxyType({"p50": 500, "p90": 900, "p99": 990, "p99.9": 999})
"""Stated percentiles in thousandths, exactly."""
BEYOND: Final = 10
"""Samples that must lie beyond a percentile before it is stated: with fewer, it is the
story of a few samples. p50 needs 20 samples, p90 100, p99 1,000 and p99.9 10,000."""


class Summary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a set of latencies allows to be said, in nanoseconds."""

    samples: int
    p50: int | None
    """None where too few samples lie beyond it."""
    p90: int | None
    p99: int | None
    p999: int | None
    max: int


class Paced(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run at a fixed period."""

    latency_ns: tuple[int, ...]
    """From the instant at which the input was due to the answer."""
    service_ns: tuple[int, ...]
    """From the begin of the work to the answer, without the wait for its turn."""
    misses: int
    """Latencies beyond the deadline."""


def needed(per_mille: int) -> int:
    """Return how many samples a percentile needs before it is stated."""
    return -(-BEYOND * 1000 // (1000 - per_mille))


def percentile(ordered_ns: Sequence[int], per_mille: int) -> int | None:
    """Return a percentile by nearest rank: a latency that occurred, none in between.

    Args:
        ordered_ns: Samples in increasing order.
        per_mille: The percentile in thousandths, from 1 to 999.

    Returns:
        The smallest sample that at least this share of the samples does not exceed;
        None with too few samples (see `BEYOND`).
    """
    count = len(ordered_ns)
    if count < needed(per_mille):
        return None
    return ordered_ns[-(-count * per_mille // 1000) - 1]


def summary(samples_ns: Sequence[int]) -> Summary:
    """Return what samples allow to be said.

    Raises:
        UsageError: There is no sample.
    """
    if not samples_ns:
        raise UsageError("latencies: expected at least one sample, found none")
    ordered = sorted(samples_ns)
    p50, p90, p99, p999 = (percentile(ordered, k) for k in PER_MILLE.values())
    return Summary(
        samples=len(ordered), p50=p50, p90=p90, p99=p99, p999=p999, max=ordered[-1]
    )


def back_to_back(
    work: Callable[[], object],
    count: int,
    clock: Clock,
    before: Callable[[], object] | None = None,
) -> list[int]:
    """Return how long each of several calls took, one after the other.

    Args:
        work: What is measured.
        count: Calls.
        clock: Monotonic nanoseconds.
        before: Called before each, and not measured.
    """
    samples = []
    for _ in range(count):
        if before is not None:
            before()
        begin = clock()
        work()
        samples.append(clock() - begin)
    return samples


def paced(
    work: Callable[[], object],
    count: int,
    *,
    period_ns: int,
    deadline_ns: int,
    clock: Clock,
    wait_until: Callable[[int], None],
) -> Paced:
    """Call once a period, as a scanner sends, whether or not the last call is done.

    A latency counts from the instant at which its input was due. Counted from the
    begin of its work, one long call would hide how long the inputs behind it waited
    (Tene, "How not to measure latency", 2013: coordinated omission).

    Args:
        work: What is measured.
        count: Calls.
        period_ns: Time between two inputs.
        deadline_ns: Latency beyond which a call counts as missed.
        clock: Monotonic nanoseconds.
        wait_until: Returns when the clock has reached an instant, or at once.

    Raises:
        UsageError: The period or the deadline is not positive.
    """
    for name, value in (("period_ns", period_ns), ("deadline_ns", deadline_ns)):
        if value <= 0:
            raise UsageError(f"{name}: expected more than 0, found {value}")
    latency, service = [], []
    first = clock() + period_ns
    for i in range(count):
        due = first + i * period_ns
        wait_until(due)
        begin = clock()
        work()
        end = clock()
        latency.append(end - due)
        service.append(end - begin)
    misses = sum(value > deadline_ns for value in latency)
    return Paced(latency_ns=tuple(latency), service_ns=tuple(service), misses=misses)
