"""What was said against what was heard: two logs in, violations out; or three.

This file imports nothing but the standard library, and is run by an interpreter of its
own: whoever judges the server must not share a line with it. All logs are JSON lines.
A sending process writes what it is about to hand over and what leaves it, before either
happens, so that no death can make the log know less than the server; a subscriber
writes what it received. That subscriber is the package that others install, which asks
for what it missed and leaves out what it has had; so a third log, where there is one,
holds the bare frames that were announced, and is read here to the byte. An announcement
may be missed by whoever listens, but no outcome may be announced twice.

    said:   {"what": "run", "run", "count"}
            {"what": "volume", "run", "index", "payload_crc32"}
            {"what": "event", "run", "trial_id"}
            {"what": "message", "run", "index", "payload_crc32", "crc32"}
    heard:  {"what": "volume", "run", "outcome_index", "volume_index", "input", "crc32"}
            {"what": "trial", "run", "outcome_index", "trial_id"}
            {"what": "ended", "run", "count", "aborted"}
    announced: {"frames": [header, payload]}, as hexadecimal digits
"""

import json
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]
MAX_EXAMPLES = 10

FIGURES = (
    "lost",
    "duplicated",
    "corrupt",
    "out_of_order",
    "missing",
    "invented",
)
"""Every one of them has to be zero, and so has `announced_twice` where it is known."""


NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
"""msgpack's numbers: first byte, and how the others are to be read."""

LENGTHS = {
    0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4),
    0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4),
    0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
"""msgpack's longer values: first byte, what follows, and in how many bytes how much."""


class Unpacker:
    """Reads msgpack, as its specification says."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        if len(self.data) < self.at + n:
            raise ValueError(f"expected {n} bytes more at {self.at}")
        self.at += n
        return self.data[self.at - n : self.at]

    def value(self) -> Any:
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in NUMBERS:
            form = NUMBERS[first]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if first in LENGTHS:
            kind, n_bytes = LENGTHS[first]
            return self.many(kind, int.from_bytes(self.take(n_bytes), "big"))
        if first < 0xC0:
            kind = "map" if first < 0x90 else "list" if first < 0xA0 else "text"
            return self.many(kind, first & (0x1F if kind == "text" else 0x0F))
        raise ValueError(f"expected msgpack without extensions, found {first:#x}")

    def many(self, kind: str, n: int) -> Any:
        if kind == "bytes":
            return self.take(n)
        if kind == "text":
            return self.take(n).decode()
        if kind == "list":
            return [self.value() for _ in range(n)]
        return {self.value(): self.value() for _ in range(n)}


def announced_by(frames: list[str]) -> dict[str, Any]:
    """Read one announced message.

    Raises:
        ValueError: It is not what docs/wire.md says, or its CRC is another.
        TypeError: It is msgpack of something else.
    """
    header, payload = map(bytes.fromhex, frames)
    unpacker = Unpacker(header)
    record, crc = unpacker.value()
    if unpacker.at != len(header) or crc != header[-4:]:
        raise ValueError("expected a record and the CRC that ends the header")
    if zlib.crc32(payload, zlib.crc32(header[:-4])) != int.from_bytes(crc, "little"):
        raise ValueError("expected header and payload to match their CRC")
    if not isinstance(record, dict):
        raise TypeError("expected a map for a record")
    return record


class Said:
    """What the sending processes said of one run."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.payloads: dict[int, set[int]] = {}
        self.messages: dict[int, set[int]] = {}
        self.trials: set[str] = set()

    def add(self, line: Line) -> None:
        if line["what"] == "event":
            self.trials.add(line["trial_id"])
            return
        self.payloads.setdefault(line["index"], set()).add(line["payload_crc32"])
        if line["what"] == "message":
            self.messages.setdefault(line["index"], set()).add(line["crc32"])


class Check:
    """The verdict over all runs."""

    def __init__(self) -> None:
        self.figures: Counter[str] = Counter(dict.fromkeys(FIGURES, 0))
        self.examples: list[str] = []

    def found(self, figure: str, what: str) -> None:
        self.figures[figure] += 1
        self.examples.append(f"{figure}: {what}")

    def run(self, name: str, said: Said, heard: list[Line]) -> None:
        volumes: Counter[int] = Counter()
        trials: Counter[str] = Counter()
        newest, ended = -1, None
        for place, line in enumerate(heard):
            if line["what"] == "ended":
                ended = line
                continue
            if line["outcome_index"] != place:
                self.found("out_of_order", f"{name}: outcome {line['outcome_index']}")
            if line["what"] == "trial":
                trials[line["trial_id"]] += 1
                continue
            index = line["volume_index"]
            volumes[index] += 1
            if index != newest + 1:
                self.found("out_of_order", f"{name}: volume {index} after {newest}")
            newest = max(newest, index)
            self._input(name, said, line)
        self._counts(f"{name}: volume", set(said.payloads), volumes)
        self._counts(f"{name}: trial", said.trials, trials)
        if set(said.payloads) != set(range(said.count)):
            self.found("lost", f"{name}: {len(said.payloads)} of {said.count} sent")
        if ended is None or ended["aborted"] or ended["count"] != said.count:
            self.found("lost", f"{name}: ended as {ended}")

    def announced(self, lines: Iterable[Line]) -> int:
        """Find what was announced twice; return how many outcomes were announced."""
        self.figures["announced_twice"] = 0
        seen: set[tuple[Any, ...]] = set()
        outcomes = 0
        for line in lines:
            try:
                said = announced_by(line["frames"])
            except (ValueError, TypeError) as error:
                self.found("corrupt", f"announced: {error}")
                continue
            if "outcome_index" not in said:
                continue  # a sign of life
            outcomes += 1
            run, kind = said["run"], said["kind"]
            keys = [("outcome", said["outcome_index"])]
            if kind == "VOLUME_OUTCOME":
                keys.append(("volume", said["volume_index"]))
            if kind == "TRIAL_OUTCOME":
                keys.append(("trial", said["trial_id"]))
            for key in keys:
                if (run, *key) in seen:
                    self.found("announced_twice", f"{run}: {key[0]} {key[1]}")
                seen.add((run, *key))
        return outcomes

    def _input(self, name: str, said: Said, line: Line) -> None:
        index = line["volume_index"]
        if line["input"] != "OK":
            reason = line.get("reason", "")
            self.found("missing", f"{name}: volume {index} {line['input']} {reason}")
            return
        # One payload and one message for each index, however often it was sent.
        messages = said.messages.get(index, set())
        if messages != {line["crc32"]} or len(said.payloads.get(index, ())) != 1:
            self.found("corrupt", f"{name}: volume {index}: {line['crc32']}")

    def _counts(self, what: str, said: set[Any], heard: Counter[Any]) -> None:
        for one in sorted(said - set(heard)):
            self.found("lost", f"{what} {one}")
        for one, count in sorted(heard.items()):
            if one not in said:
                self.found("invented", f"{what} {one}")
            if count > 1:
                self.found("duplicated", f"{what} {one}: {count} outcomes")


def lines_of(log: Path) -> Iterator[Line]:
    """Read a log; its last line may be torn, because its writer was killed."""
    for line in log.read_bytes().split(b"\n"):
        try:
            found = json.loads(line) if line else None
        except ValueError:
            # Torn by a kill in mid-write, and said again by the successor.
            continue
        if isinstance(found, dict):
            yield found


def check(
    said_log: Path, heard_log: Path, announced_log: Path | None = None
) -> dict[str, Any]:
    """Compare the logs; return figures and the first violations."""
    said: dict[str, Said] = {}
    heard: dict[str, list[Line]] = {}
    for line in lines_of(said_log):
        run = line["run"]
        if line["what"] == "run":
            said.setdefault(run, Said(line["count"]))
        else:
            said[run].add(line)
    for line in lines_of(heard_log):
        if line["what"] in ("volume", "trial", "ended"):
            heard.setdefault(line["run"], []).append(line)
    verdict = Check()
    for run, one in said.items():
        verdict.run(run, one, heard.pop(run, []))
    for run in heard:
        verdict.found("invented", f"run {run}")
    announced = {}
    if announced_log is not None:
        announced = {"announced": verdict.announced(lines_of(announced_log))}
    return {
        "figures": {
            "runs": len(said),
            "volumes": sum(len(one.payloads) for one in said.values()),
            "trials": sum(len(one.trials) for one in said.values()),
            **announced,
            **verdict.figures,
        },
        "examples": verdict.examples[:MAX_EXAMPLES],
    }


if __name__ == "__main__":
    json.dump(check(*map(Path, sys.argv[1:])), sys.stdout)
