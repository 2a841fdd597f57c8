"""A segment of a recording is cut off at a random byte, as a lost disk block does."""

import random
from contextlib import ExitStack
from dataclasses import asdict
from unittest import mock

from bci_bridge import salvage
from tests.faults.recordings import Recorded, Tally, record, scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Progress, Settings


def run(settings: Settings) -> Finding:
    """Cut, scan, compare; the recording as it was comes back before the next cut."""
    dice = random.Random(settings.seed)
    tries = settings.tries(short=300, full=10_000)
    tally, examples = Tally(), []
    progress = Progress("recording-cut", tries)
    with scratch() as folder, ExitStack() as stack:
        recordings = [
            record(folder / str(is_killed), dice, is_killed=is_killed)
            for is_killed in (False, True)
        ]
        if settings.sabotage:
            stack.enter_context(_sabotage())
        for number in range(tries):
            recorded = recordings[number % len(recordings)]
            name = dice.choice(list(recorded.segments))
            at = dice.randrange(len(recorded.segments[name]))
            (recorded.folder / name).write_bytes(recorded.segments[name][:at])
            trouble = tally.scan(recorded, _cut_off(recorded, name, at))
            if trouble:
                examples.append(f"{name} cut at byte {at}: {trouble}")
            recorded.reset(name)
            progress.at(number)
    return Finding(
        {
            "truncations": tries,
            "segments": sum(len(r.segments) for r in recordings),
            **asdict(tally),
        },
        {
            "truncations": Bound(at_least=tries),
            "wrong_frames": NONE,
            "intact_not_returned": NONE,
            "lost_not_listed": NONE,
            "refused_whole": NONE,
            "returned": Bound(at_least=1),
            "lost": Bound(at_least=1),
        },
        examples,
    )


def _cut_off(recorded: Recorded, segment: str, at: int) -> set[int]:
    return {
        order
        for order, frame in enumerate(recorded.frames)
        if frame.segment == segment and frame.end > at
    }


def _sabotage() -> "mock._patch[object]":
    """A reader that takes the last whole chunk of a torn segment for a torn one."""
    sound = salvage._sound_chunk

    def careless(data: bytes, at: int) -> salvage.Chunk | None:
        found = sound(data, at)
        if found is None or at + 49 + len(found.records) + 49 > len(data):
            return None
        return found

    return mock.patch.object(salvage, "_sound_chunk", careless)


FAULT = Fault(
    "recording-cut", "one segment of a recording is cut off at a random byte", run
)
