"""What a process that was killed must know to go on, read from the log.

The last segment tells: it begins with all that was known then, and the rest is folded.
"""

import math

from bci_bridge.ledger import Ledger
from bci_bridge.outbox import KEPT_RUNS
from bci_bridge.places import INPUTS, OUTCOMES, Places
from bci_bridge.segment import Logged
from bci_bridge.tail import Tail, preface_of, segments_in


def last_preface(places: Places, name: str) -> tuple[int, Logged | None]:
    """Find the newest segment of a log that begins with what was known.

    Returns:
        Its number and its first message; 0 and None where there is none.
    """
    segments = segments_in(places.folders(name))
    for number in sorted(segments, reverse=True):
        preface = preface_of(segments[number])
        if preface is not None:
            return number, preface
    return 0, None


def recovered_ledger(places: Places) -> tuple[Ledger, int]:
    """Know again what the writer of the inputs' log knew.

    Returns:
        The ledger, and the place of the next message in the order.

    Raises:
        RecordingError: The log was written by another version.
    """
    number, preface = last_preface(places, INPUTS)
    ledger, order = Ledger(), 0
    if preface is not None:
        ledger = Ledger.from_note(preface.envelope)
        order = preface.order
    tail = Tail(places.folders(INPUTS), segment=number)
    try:
        for logged in tail.read_through():
            for one in logged:
                order = one.order + 1
                if is_folded(one):
                    ledger.fold(one.envelope, one.log_ns, segment=number)
    finally:
        tail.close()
    return ledger, order


def is_spilt_since(places: Places, name: str, segment: int) -> bool:
    """Say whether a log has been in memory since a segment was begun."""
    return any(number >= segment for number in _spilt(places, name))


def spilt_runs(places: Places, name: str, ledger: Ledger) -> frozenset[str]:
    """Name the runs whose senders are answered, and of which memory may hold a part."""
    begun = [one.segment for one in ledger.heard]
    # A run ends in the segment in which the next begins, or before it.
    ends = [*begun[1:], math.inf]
    return frozenset(
        one.run_id
        for one, end in zip(ledger.heard, ends, strict=False)
        if any(one.segment <= number <= end for number in _spilt(places, name))
    )


def _spilt(places: Places, name: str) -> tuple[int, ...]:
    spill = places.spill(name)
    return () if spill is None else tuple(segments_in([spill]))


def is_folded(logged: Logged) -> bool:
    """Say whether a message of the inputs' log changes what is known of a run."""
    return logged.topic == "note" or logged.topic.startswith("in/")


def next_order(places: Places, name: str) -> int:
    """Find the place of the next message in the order of a log without prefaces."""
    segments = segments_in(places.folders(name))
    order = 0
    for number in sorted(segments, reverse=True)[:2]:
        tail = Tail([segments[number].parent], segment=number)
        try:
            for logged in tail.read_through():
                order = max(order, logged[-1].order + 1)
        finally:
            tail.close()
    return order


def run_segment(places: Places) -> int:
    """Find the segment of the inputs' log from which the last run can be followed.

    Raises:
        RecordingError: The log was written by another version.
    """
    number, preface = last_preface(places, INPUTS)
    if preface is None:
        return 0
    run = Ledger.from_note(preface.envelope).run
    return number if run is None else min(run.heard.segment, number)


def runs_before(places: Places, known: frozenset[str]) -> frozenset[str]:
    """Name the runs of the inputs' log that were over before any of the known ones.

    A worker that starts reads inputs from where the ingress last began a segment, maybe
    many runs back, and outcomes from a few runs back. What comes before the first run
    that it sees begin among the outcomes is on record as a whole, because outcomes are
    written in the order of the inputs; none of it may be answered again.

    Args:
        places: Where the logs are.
        known: Runs whose beginning was read from the log of outcomes.

    Returns:
        Nothing where no known run is among the inputs: then all of them are newer.
    """
    earlier: set[str] = set()
    tail = Tail(places.folders(INPUTS), segment=run_segment(places))
    try:
        for logged in tail.read_through() if known else ():
            for one in filter(is_folded, logged):
                if one.envelope.record.run in known:
                    return frozenset(earlier)
                earlier.add(one.envelope.record.run)
    finally:
        tail.close()
    return frozenset()


def run_going_on(places: Places, segment: int) -> str:
    """Name the run that a segment of the outcomes' log goes on with; empty for none."""
    path = segments_in(places.folders(OUTCOMES)).get(segment)
    preface = None if path is None else preface_of(path)
    return "" if preface is None else preface.envelope.record.run


def outbox_segment(places: Places) -> int:
    """Find the segment of the outcomes' log from which an outbox can be filled."""
    segments = segments_in(places.folders(OUTCOMES))
    runs: set[str] = set()
    for number in sorted(segments, reverse=True):
        preface = preface_of(segments[number])
        if preface is None:
            continue
        # A segment begins with the name of the run that goes on in it.
        runs.add(preface.envelope.record.run)
        if len(runs) > KEPT_RUNS:
            return number
    return min(segments, default=0)
