"""A rehearsal's player: what is refused before it, and how its end becomes one line."""

import os
import signal
import sys
import time

import pytest

from bci_bridge.keyfolder import make_device, make_server
from bci_bridge.settings import ServeReport
from runtime.errors import BackendError, UsageError
from tests.unit.test_recording import bids  # noqa: F401  # a fixture
from verbs.apart import apart
from verbs.rehearse import STOP_S, Rehearsal, rehearsal_of


@pytest.fixture
def planned(bids, tmp_path_factory):  # noqa: F811  # the fixture
    """Look at what a rehearsal needs, with a folder of keys at hand."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    make_server(keys)
    make_device(keys, "player", ("scanner", "stimulus"))
    make_device(keys, "eye", ("observer", "stimulus"))

    def plan(recording=bids, speed=None, key=None, keys=None, **options):
        return rehearsal_of(
            recording,
            speed=speed,
            key=key,
            keys=keys,
            on_line=lambda _: None,
            **options,
        )

    plan.keys, plan.recording = keys, bids
    return plan


def player(script, n_runs=0, told=(), **options):
    """A rehearsal with a program of our own in the player's place."""
    said = []
    rehearsal = Rehearsal(
        "REC", ["--speed", "2"], n_runs=n_runs, on_line=said.append,
        program=[sys.executable, "-c", script], **options,
    )  # fmt: skip
    rehearsal.begin("tcp://127.0.0.1:1", told)
    return rehearsal, said


def finished(rehearsal, is_told=False):
    while not rehearsal.is_over(is_told=is_told):
        time.sleep(0.002)  # another process's time, which no clock of ours can give
    return rehearsal


def report(outcomes, **gaps):
    """What a server did that gave out so much."""
    return ServeReport(
        runs=1, outcomes=outcomes, rejected={}, recording="ON", gaps=gaps
    )


def refusal(rehearsal, outcomes):
    with pytest.raises(BackendError) as caught:
        rehearsal.require_success(report(outcomes))
    return str(caught.value)


def test_without_a_recording_there_is_no_rehearsal_and_no_flag_of_one(planned):
    assert planned(None) is None
    for flag, options in (
        ("--subject", {"subject": "01"}),
        ("--speed", {"speed": 1.0}),
        ("--updates", {"updates": True}),
        ("--late", {"late": "flag"}),
        ("--rehearse-key", {"key": planned.keys / "player.key"}),
    ):
        with pytest.raises(UsageError) as caught:
            planned(None, **options)
        assert str(caught.value) == f"{flag}: expected with --rehearse alone"


def test_what_fits_is_planned(planned):
    keyed = planned(key=planned.keys / "player.key", keys=planned.keys)

    assert isinstance(planned(speed=2.0, subject="01"), Rehearsal)
    assert isinstance(keyed, Rehearsal)


def test_a_wrong_speed_or_recording_is_refused_before_anything_is_loaded(planned):
    with pytest.raises(UsageError, match="--speed: expected a number above 0, found 0"):
        planned(speed=0.0)
    with pytest.raises(BackendError, match="expected runs of sub-7, found sub-01"):
        planned(subject="7")
    with pytest.raises(BackendError) as caught:
        planned(planned.recording / "none")

    missing = planned.recording / "none"
    assert str(caught.value) == f"{missing}: expected a folder, found none"


def test_a_key_that_cannot_play_is_refused_in_one_line(planned):
    keys = planned.keys
    (keys / "player.key").chmod(0o644)
    make_device(keys.parent / "other", "player", ("operator",))
    cases = {
        "none": {"keys": keys},
        "unasked": {"key": keys / "player.key"},
        "role": {"keys": keys, "key": keys / "eye.key"},
        "open": {"keys": keys, "key": keys / "player.key"},
        "stranger": {"keys": keys, "key": keys.parent / "other" / "player.key"},
    }

    lines = {}
    for name, options in cases.items():
        with pytest.raises((UsageError, BackendError)) as caught:
            planned(**options)
        lines[name] = str(caught.value)

    assert lines == {
        "none": "--rehearse-key: expected the key of a device with the roles scanner "
        "and stimulus, found none. Make one with: neuroflow keys make "
        f"--folder {keys} --name player --roles scanner stimulus",
        "unasked": "--rehearse-key: expected with --keys alone",
        "role": "--rehearse-key: expected a device with the roles scanner and "
        "stimulus, found eye with observer, stimulus",
        "open": f"{keys / 'player.key'}: expected a file readable by its owner alone, "
        f"found mode 0644. Run: chmod 600 {keys / 'player.key'}",
        "stranger": f"--rehearse-key: expected a key in force in {keys}, found "
        f"another. See them with: neuroflow keys list --folder {keys}",
    }


def test_the_player_is_the_command_line_with_the_address_in_use():
    rehearsal, said = player("import sys; print(*sys.argv[1:], file=sys.stderr)")

    finished(rehearsal).require_success(report({}))
    rehearsal.close()

    assert said == ["play REC --rehearsal --speed 2 --to tcp://127.0.0.1:1"]


def test_the_player_is_told_which_confounds_the_bundle_asks_for():
    script = "import sys; print(*sys.argv[1:], file=sys.stderr)"
    rehearsal, said = player(script, told=("breath", "pulse"))

    finished(rehearsal)
    rehearsal.close()

    assert said == [
        "play REC --rehearsal --speed 2 --confounds breath pulse --to tcp://127.0.0.1:1"
    ]


def test_a_players_last_word_becomes_the_servers_one_line():
    script = (
        "import sys; print('run-1: 3 volumes sent', file=sys.stderr);"
        "print('neuroflow: SHAPE: no', file=sys.stderr); sys.exit(1)"
    )
    failed, said = player(script)
    silent, _ = player("import sys; sys.exit(3)")
    killed, _ = player("import os; os.kill(os.getpid(), 9)")

    lines = [refusal(finished(one), {}) for one in (failed, silent, killed)]
    for one in (failed, silent, killed):
        one.close()

    expected = "rehearsal of REC: expected the player to succeed, found: "
    assert said == ["run-1: 3 volumes sent"]
    assert lines == [expected + w for w in ("SHAPE: no", "status 3", "signal 9")]


def test_a_run_that_was_not_answered_to_its_end_is_no_success():
    rehearsal, _ = player("", n_runs=2)
    finished(rehearsal)
    line = refusal(rehearsal, {"RunEnded": 1, "VolumeOutcome": 9})
    rehearsal.require_success(report({"RunEnded": 2}))
    rehearsal.close()

    assert line == (
        "rehearsal of REC: expected 2 runs answered to their end, found 1. "
        "Give a lower --speed."
    )


def test_a_rehearsal_of_late_volumes_is_no_success():
    rehearsal, _ = player("", n_runs=1)
    finished(rehearsal)
    given = {"RunEnded": 1, "VolumeOutcome": 20}
    rehearsal.require_success(report(given, DEADLINE=1, SKIPPED=19))
    with pytest.raises(BackendError) as raised:
        rehearsal.require_success(report(given, DEADLINE=2))
    rehearsal.close()

    assert str(raised.value) == (
        "rehearsal of REC: expected volumes before their deadline, found 2 of 20 after "
        "it or never. Give a lower --speed, or let nothing else compute meanwhile."
    )


HEEDLESS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print('heard', file=sys.stderr, flush=True))
print('here', file=sys.stderr, flush=True)
while True:
    time.sleep(1)
"""


def test_a_server_that_is_told_to_end_tells_the_player_once_and_waits_no_longer_than():
    now = [100.0]
    rehearsal, said = player(HEEDLESS, clock_s=lambda: now[0])
    while not said:
        assert not rehearsal.is_over(is_told=False)
    while said == ["here"]:
        assert not rehearsal.is_over(is_told=True)
    now[0] += STOP_S
    assert not rehearsal.is_over(is_told=True)
    now[0] += 0.1
    finished(rehearsal, is_told=True).require_success(
        report({})
    )  # it was told: no failure
    rehearsal.close()

    assert said == ["here", "heard"]


def test_a_server_told_to_end_before_it_is_ready_has_no_player_to_wait_for():
    rehearsal = Rehearsal("REC", [], n_runs=1, on_line=lambda _: None)

    assert not rehearsal.is_over(is_told=False)
    assert rehearsal.is_over(is_told=True)
    rehearsal.require_success(report({}))
    rehearsal.close()


def test_a_player_does_not_outlive_the_server_that_started_it():
    rehearsal, said = player(HEEDLESS)
    while not said:
        rehearsal.is_over(is_told=False)
    pid = rehearsal._process.pid
    rehearsal.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_is_done_apart_leaves_its_answer_and_nothing_else():
    seen = []

    assert apart("it", lambda: seen.append(1) or f"{os.getpid()}") != f"{os.getpid()}"
    assert seen == []


def test_what_fails_apart_fails_here_with_the_same_words():
    def fail(error):
        raise error

    with pytest.raises(UsageError, match=r"^a: no$"):
        apart("it", lambda: fail(UsageError("a: no")))
    with pytest.raises(BackendError, match=r"^b: no$"):
        apart("it", lambda: fail(BackendError("b: no")))
    with pytest.raises(BackendError, match=r"^it: expected it to be done, found "):
        apart("it", lambda: os.kill(os.getpid(), signal.SIGKILL))
