"""One bit of a recording is flipped: anywhere, and on purpose where it hurts most."""

import random
import struct
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from unittest import mock

from bci_bridge import salvage
from tests.faults.recordings import Recorded, Tally, record, scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Progress, Settings

PLACES = ("anywhere", "length", "magic", "channel", "footer")


def run(settings: Settings) -> Finding:
    """Flip, scan, compare; the recording as it was comes back before the next flip."""
    dice = random.Random(settings.seed)
    tries = settings.tries(short=300, full=10_000)
    tally, examples = Tally(), []
    hits: Counter[str] = Counter()
    progress = Progress("recording-flip", tries)
    with scratch() as folder, ExitStack() as stack:
        recordings = [
            record(folder / str(is_killed), dice, is_killed=is_killed)
            for is_killed in (False, True)
        ]
        if settings.sabotage:
            stack.enter_context(_sabotage())
        for number in range(tries):
            recorded = recordings[number % len(recordings)]
            # Every second one anywhere: each byte of a segment must have its chance.
            place = "anywhere" if number % 4 < 2 else dice.choice(PLACES[1:])
            name, at = _target(recorded, place, dice)
            data = bytearray(recorded.segments[name])
            bit = dice.randrange(8)
            data[at] ^= 1 << bit
            (recorded.folder / name).write_bytes(data)
            trouble = tally.scan(recorded, _touched(recorded, name, at))
            hits[place] += 1
            if trouble:
                examples.append(f"{name} byte {at} bit {bit} ({place}): {trouble}")
            recorded.reset(name)
            progress.at(number)
    return Finding(
        {
            "flips": tries,
            **{f"flips_{place}": hits[place] for place in PLACES},
            **asdict(tally),
        },
        {
            "flips": Bound(at_least=tries),
            "wrong_frames": NONE,
            "intact_not_returned": NONE,
            "lost_not_listed": NONE,
            "refused_whole": NONE,
            "returned": Bound(at_least=1),
            "lost": Bound(at_least=1),
            **{f"flips_{place}": Bound(at_least=1) for place in PLACES},
        },
        examples,
    )


def _target(recorded: Recorded, place: str, dice: random.Random) -> tuple[str, int]:
    """Choose a segment and a byte of it."""
    name = dice.choice(list(recorded.segments))
    data = recorded.segments[name]
    chunks = [frame for frame in recorded.frames if frame.segment == name]
    match place:
        case "length":
            # Of the header, a chunk, its records, or the end of the data.
            begin = dice.choice([*(frame.begin for frame in chunks), 8])
            at = begin + 1 if begin == 8 or dice.random() < 0.5 else begin + 41
            return name, at + dice.randrange(8)
        case "magic":
            return name, dice.randrange(8)
        case "channel":
            chosen = dice.choice(list(recorded.channels.values()))
            frame = recorded.frames[chosen]
            # A channel's record is the first of the chunk that needs it.
            begin = frame.begin + 49
            content = recorded.segments[frame.segment]
            (size,) = struct.unpack_from("<Q", content, begin + 1)
            return frame.segment, begin + dice.randrange(9 + size)
        case "footer":
            last = max((frame.end for frame in chunks), default=8)
            tail = range(last, len(data)) or range(len(data) - 8, len(data))
            return name, dice.choice(tail)
        case _:
            return name, dice.randrange(len(data))


def _touched(recorded: Recorded, segment: str, at: int) -> set[int]:
    return {
        order
        for order, frame in enumerate(recorded.frames)
        if frame.segment == segment and frame.begin <= at < frame.end
    }


class _Anything(int):
    """A CRC that is always the right one."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def _sabotage() -> "mock._patch[object]":
    """A reader that believes every chunk."""
    blind = mock.Mock(spec=["crc32"], crc32=lambda data: _Anything())
    return mock.patch.object(salvage, "zlib", blind)


FAULT = Fault("recording-flip", "one bit of a recording is flipped", run)
