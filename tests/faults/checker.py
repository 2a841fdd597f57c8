"""What was said against what was heard: two logs in, violations out.

This file imports nothing but the standard library, and is run by an interpreter of its
own: whoever judges the server must not share a line with it. Both logs are JSON lines.
A sending process writes what it is about to hand over and what leaves it, before either
happens, so that no death can make the log know less than the server; a subscriber
writes what it received.

    said:   {"what": "run", "run", "count"}
            {"what": "volume", "run", "index", "payload_crc32"}
            {"what": "event", "run", "trial_id"}
            {"what": "message", "run", "index", "payload_crc32", "crc32"}
    heard:  {"what": "volume", "run", "outcome_index", "volume_index", "input", "crc32"}
            {"what": "trial", "run", "outcome_index", "trial_id"}
            {"what": "ended", "run", "count", "aborted"}
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
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
"""Every one of them has to be zero."""


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


def check(said_log: Path, heard_log: Path) -> dict[str, Any]:
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
    return {
        "figures": {
            "runs": len(said),
            "volumes": sum(len(one.payloads) for one in said.values()),
            "trials": sum(len(one.trials) for one in said.values()),
            **verdict.figures,
        },
        "examples": verdict.examples[:MAX_EXAMPLES],
    }


if __name__ == "__main__":
    json.dump(check(Path(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
