"""The checker finds each kind of violation, and knows nothing of what it judges."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bci_bridge.messages import Heartbeat
from bci_bridge.outcomes import ScoredStimulus, TrialOutcome, VolumeOutcome
from bci_bridge.wire import encode
from tests.faults.checker import FIGURES, Check, announced_by, check, lines_of
from tests.faults.jsonlog import JsonLog, LogReader

CHECKER = Path(__file__).with_name("checker.py")
N = 4


def said_lines():
    yield {"what": "run", "run": "r", "count": N}
    yield {"what": "event", "run": "r", "trial_id": "t"}
    for index in range(N):
        volume = {"run": "r", "index": index, "payload_crc32": 7 * index}
        yield {"what": "volume", **volume}
        yield {"what": "message", **volume, "crc32": 100 + index}


def heard_lines():
    place = 0
    for index in range(N):
        yield {
            "what": "volume",
            "run": "r",
            "outcome_index": place,
            "volume_index": index,
            "input": "OK",
            "crc32": 100 + index,
        }
        place += 1
        if index == 1:
            yield {"what": "trial", "run": "r", "outcome_index": 2, "trial_id": "t"}
            place += 1
    yield {"what": "ended", "run": "r", "count": N, "aborted": False}


def judged(tmp_path, said, heard):
    for name, lines in (("said", said), ("heard", heard)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name).write_text(text)
    return check(tmp_path / "said", tmp_path / "heard")["figures"]


def without(lines, place):
    return lines[:place] + lines[place + 1 :]


def changed(lines, place, **fields):
    return [*lines[:place], {**lines[place], **fields}, *lines[place + 1 :]]


def test_a_run_that_is_answered_once_and_in_order_is_in_order(tmp_path):
    figures = judged(tmp_path, said_lines(), heard_lines())

    assert "announced_twice" not in figures
    assert {name: figures[name] for name in FIGURES} == dict.fromkeys(FIGURES, 0)
    assert (figures["runs"], figures["volumes"], figures["trials"]) == (1, N, 1)


@pytest.mark.parametrize(
    ("figure", "spoil"),
    [
        ("lost", lambda heard: without(heard, 4)),
        ("lost", lambda heard: without(heard, 2)),
        ("lost", lambda heard: without(heard, 5)),
        ("lost", lambda heard: changed(heard, 5, count=N - 1)),
        ("lost", lambda heard: changed(heard, 5, aborted=True)),
        ("lost", lambda heard: []),
        ("duplicated", lambda heard: [*heard, {**heard[0], "outcome_index": 5}]),
        ("duplicated", lambda heard: [*heard, {**heard[2], "outcome_index": 5}]),
        ("corrupt", lambda heard: changed(heard, 3, crc32=1)),
        ("corrupt", lambda heard: changed(heard, 3, crc32=None)),
        ("out_of_order", lambda heard: [heard[1], heard[0], *heard[2:]]),
        ("out_of_order", lambda heard: without(heard, 0)),
        ("missing", lambda heard: changed(heard, 0, input="MISSING")),
        ("missing", lambda heard: changed(heard, 0, input="INVALID")),
        ("invented", lambda heard: changed(heard, 4, volume_index=N)),
        ("invented", lambda heard: changed(heard, 2, trial_id="other")),
        ("invented", lambda heard: changed(heard, 0, run="other")),
    ],
)
def test_each_violation_is_found_under_its_name(tmp_path, figure, spoil):
    figures = judged(tmp_path, said_lines(), spoil(list(heard_lines())))

    assert figures[figure] > 0


@pytest.mark.parametrize("field", ["payload_crc32", "crc32"])
def test_a_volume_that_left_as_two_different_messages_is_corrupt(tmp_path, field):
    said = list(said_lines())
    figures = judged(tmp_path, [*said, {**said[-1], field: 5}], heard_lines())

    assert figures["corrupt"] == 1


def test_a_sender_that_never_came_to_its_end_lost_something(tmp_path):
    figures = judged(tmp_path, changed(list(said_lines()), 0, count=9), heard_lines())

    assert figures["lost"] > 0


def announced(tmp_path, *records):
    """Write frames as a bare socket would have had them."""
    envelopes = [encode(record, b"arrays") for record in records]
    lines = [{"frames": [f.hex() for f in one.frames]} for one in envelopes]
    (tmp_path / "announced").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return tmp_path / "announced"


def volume_outcome(outcome_index, volume_index=None, run="r"):
    return VolumeOutcome(
        run=run, outcome_index=outcome_index, decided_ns=2**40, published_ns=2**63 - 1,
        volume_index=outcome_index if volume_index is None else volume_index,
        input="OK", timing="LIVE", stage_ns={f"stage-{n}": n for n in range(20)},
        degraded=("x" * 200,), confidence=0.5, clock_offset_ns=-(2**40), label="é",
        candidates=(ScoredStimulus(stimulus_id="a", label="b", cosine=-0.25),),
    )  # fmt: skip


def trial_outcome(outcome_index, trial_id="t", run="r"):
    return TrialOutcome(
        run=run, outcome_index=outcome_index, decided_ns=1, published_ns=2,
        trial_id=trial_id, decision="WARMING", onset_s=0, delay_s=1, first_volume=0,
        last_volume=1, volumes_used=2, timing="LIVE", after_volume=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "record", [volume_outcome(300), trial_outcome(2), Heartbeat(outcome_count=70_000)]
)
def test_bare_frames_are_read_as_the_server_means_them(record):
    frames = [frame.hex() for frame in encode(record, b"payload").frames]

    said = announced_by(frames)

    wanted = msgspec.to_builtins(encode(record, b"payload").record)
    assert {name: said[name] for name in said} == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in wanted.items()
        if name in said
    }
    assert {"kind", "run"} <= set(said) or isinstance(record, Heartbeat)


def test_each_outcome_is_announced_once(tmp_path):
    log = announced(
        tmp_path, volume_outcome(0), Heartbeat(), trial_outcome(1), Heartbeat(),
        volume_outcome(0, run="other"),
    )  # fmt: skip

    verdict = Check()

    assert verdict.announced(lines_of(log)) == 3
    assert verdict.figures == dict.fromkeys((*FIGURES, "announced_twice"), 0)


@pytest.mark.parametrize(
    "again", [volume_outcome(0), volume_outcome(2, 0), trial_outcome(0, "u"),
              trial_outcome(3)],
)  # fmt: skip
def test_what_is_announced_twice_is_found_in_the_frames(tmp_path, again):
    log = announced(tmp_path, volume_outcome(0), trial_outcome(1), again)

    verdict = Check()
    verdict.announced(lines_of(log))

    assert verdict.figures["announced_twice"] > 0


def test_frames_that_changed_on_the_way_are_corrupt(tmp_path):
    log = announced(tmp_path, volume_outcome(0))
    digits = json.loads(log.read_text())["frames"]
    for spoiled in (
        [digits[0], "00" + digits[1][2:]],
        [digits[0][:-10], digits[1]],
        [digits[0], digits[1], ""],
        ["", ""],
        ["c1", ""],
    ):
        verdict = Check()
        verdict.announced([{"frames": spoiled}])
        assert verdict.figures["corrupt"] == 1, spoiled


def test_the_checker_imports_nothing_of_ours():
    program = f"""
import importlib.util, sys
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("checker", {str(CHECKER)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= sys.stdlib_module_names
    assert "json" in done.stdout.split()


def test_a_torn_line_spoils_neither_the_one_before_nor_the_one_after(tmp_path):
    path = tmp_path / "log"
    JsonLog(path).write("volume", index=0)
    with path.open("ab") as file:
        file.write(b'{"what":"volume","ind')
    reader = LogReader(path)
    before = reader.read()
    JsonLog(path).write("volume", index=1)

    assert before == [{"what": "volume", "index": 0}]
    assert reader.read() == [{"what": "volume", "index": 1}]
    assert reader.read() == []
