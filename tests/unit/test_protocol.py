import numpy as np
import pytest
from msgspec import structs

from bci_bridge import actions as do
from bci_bridge import ledger
from bci_bridge.keyring import Device, z85_from_bytes
from bci_bridge.leases import LEASE_NS
from bci_bridge.ledger import MOST_BEFORE, MOST_FORMER, Ledger
from bci_bridge.messages import (
    Event,
    Goodbye,
    Heartbeat,
    Hello,
    Missing,
    RunEnd,
    RunStart,
    Volume,
)
from bci_bridge.protocol import Protocol
from bci_bridge.wire import encode
from runtime.errors import PeerError

SHAPE = (2, 2, 2)
SECOND = 1_000_000_000
NOW = 10_000 * SECOND
SCANNER, STIMULUS = b"scanner-1", b"stimulus-1"


class Rig:
    """A protocol with its peers; counts sequences as senders do."""

    def __init__(self, pace="live", expected_volumes=10, admit=None):
        self.protocol = Protocol(**({} if admit is None else {"admit": admit}))
        self.now = NOW
        self.sequences = {}
        self.start = RunStart(
            run="run-1",
            shape=SHAPE,
            tr_s=1.0,
            expected_volumes=expected_volumes,
            budget_s=0.5,
            pace=pace,
        )

    def hello(self, peer=SCANNER, role="scanner", stream="scanner"):
        return self.give(peer, Hello(role=role, stream=stream), stream=stream)

    def give(self, peer, record, payload=b"", **header):
        return self.protocol.receive(
            peer, encode(structs.replace(record, **header), payload), self.now
        )

    def send(self, record, payload=b"", peer=SCANNER, stream="scanner"):
        sequence = self.sequences.get(stream, 0)
        actions = self.give(
            peer, record, payload, run="run-1", stream=stream, sequence=sequence
        )
        self.sequences[stream] = sequence + 1
        return actions

    def begin(self):
        self.hello()
        self.send(self.start)
        return self

    def volume(self, index, acquired_ns=None, shape=SHAPE):
        record = Volume(
            volume_index=index,
            acquired_ns=self.now if acquired_ns is None else acquired_ns,
            dtype="i2",
            shape=shape,
        )
        return self.send(record, np.full(shape, index, "<i2").tobytes())


def _kinds(actions):
    return [type(action).__name__ for action in actions]


def _fates(actions):
    """Index and input of every volume outcome that the actions lead to."""
    return [
        (action.record.volume_index, "OK")
        if isinstance(action, do.AddVolume)
        else (action.volume_index, action.input)
        for action in actions
        if isinstance(action, do.AddVolume | do.SkipVolume)
    ]


def test_a_volume_is_logged_then_acknowledged_then_decoded():
    actions = Rig().begin().volume(0)

    assert _kinds(actions) == ["Log", "Acknowledge", "AddVolume"]


def test_the_deadline_is_the_end_of_acquisition_plus_the_budget():
    rig = Rig().begin()

    *_, add = rig.volume(0, acquired_ns=NOW - SECOND // 10)

    assert add.deadline_ns == NOW + 4 * SECOND // 10


def test_the_same_message_again_is_acknowledged_and_nothing_else():
    rig = Rig().begin()
    rig.volume(0)
    rig.sequences["scanner"] -= 1

    actions = rig.volume(0)

    assert actions == [do.Acknowledge(SCANNER, "run-1", "scanner", 2, 0)]


def test_another_message_under_a_known_sequence_is_a_conflict():
    rig = Rig().begin()
    rig.volume(0)
    rig.sequences["scanner"] -= 1

    with pytest.raises(PeerError, match="CONFLICT: sequence 1 came before, different"):
        rig.volume(1)


def test_a_sequence_gap_is_not_passed_over():
    rig = Rig().begin()
    rig.sequences["scanner"] += 1

    actions = rig.volume(1)

    assert actions == [do.Acknowledge(SCANNER, "run-1", "scanner", 1, 0)]
    assert rig.protocol.next_index == 0


def test_a_sequence_far_ahead_is_refused():
    rig = Rig().begin()
    rig.sequences["scanner"] += 65

    with pytest.raises(PeerError, match="SEQUENCE_JUMP: expected 1, found 66"):
        rig.volume(1)


def test_an_index_that_the_source_skipped_is_missing_before_the_next_volume():
    rig = Rig().begin()

    actions = rig.volume(2)

    assert _fates(actions) == [(0, "MISSING"), (1, "MISSING"), (2, "OK")]


def test_what_the_source_says_is_missing_is_missing_at_once():
    rig = Rig().begin()
    rig.volume(0)

    actions = rig.send(Missing(volume_index=1))

    assert _fates(actions) == [(1, "MISSING")]


def test_a_volume_is_missing_when_its_own_deadline_has_passed_not_before():
    rig = Rig().begin()
    rig.volume(0)
    due_ns = NOW + SECOND + SECOND // 2

    early, late = rig.protocol.tick(due_ns), rig.protocol.tick(due_ns + 1)

    assert early == []
    assert _kinds(late) == ["Note", "SkipVolume"]
    assert (late[0].record.what, late[0].record.volume_index) == (
        "MISSING_BY_DEADLINE",
        1,
    )
    assert _fates(late) == [(1, "MISSING")]
    assert rig.protocol.deadline_ns() == due_ns + SECOND


def test_a_volume_after_its_missing_outcome_gets_no_second_one():
    rig = Rig().begin()
    rig.volume(0)
    rig.now += 3 * SECOND
    rig.protocol.tick(rig.now)

    actions = rig.volume(1, acquired_ns=NOW + SECOND)

    assert _kinds(actions) == ["Log", "Acknowledge", "Note"]
    assert actions[-1].record.what == "LATE_VOLUME_NOT_USED"


def test_a_scanner_that_pauses_once_loses_that_pause_and_no_more():
    rig = Rig().begin()
    rig.volume(0)
    rig.now += 3 * SECOND + SECOND // 4
    rig.protocol.tick(rig.now)

    # Volumes 1 and 2 are given up; from here the scanner is punctual, 2.25 s later.
    late = rig.volume(1, acquired_ns=rig.now)
    rig.now += SECOND
    again = rig.volume(2, acquired_ns=rig.now)
    rig.now += SECOND
    early = rig.protocol.tick(rig.now)
    on_time = rig.volume(3, acquired_ns=rig.now)

    assert [late[-1].record.what, again[-1].record.what] == 2 * ["LATE_VOLUME_NOT_USED"]
    assert early == []
    assert _fates(on_time) == [(3, "OK")]
    assert rig.protocol.deadline_ns() == rig.now + SECOND + SECOND // 2


def test_a_late_volume_that_others_have_overtaken_moves_no_deadline():
    rig = Rig().begin()
    rig.volume(0)
    rig.now += 2 * SECOND
    rig.volume(2, acquired_ns=rig.now)
    due_ns = rig.protocol.deadline_ns()

    rig.volume(1, acquired_ns=rig.now + SECOND // 2)

    assert rig.protocol.deadline_ns() == due_ns


def test_catching_up_knows_no_deadline():
    rig = Rig(pace="catchup").begin()

    *_, add = rig.volume(0, acquired_ns=5)

    assert add.deadline_ns is None
    assert rig.protocol.tick(NOW + 10**15) == []


def test_the_count_at_the_end_says_what_is_missing():
    rig = Rig().begin()
    rig.volume(0)

    actions = rig.send(RunEnd(count=3))

    assert _fates(actions) == [(1, "MISSING"), (2, "MISSING")]
    assert _kinds(actions)[-1] == "EndRun"
    assert rig.protocol.state == "ENDED"


def test_a_count_below_what_came_is_refused():
    rig = Rig().begin()
    rig.volume(0)

    with pytest.raises(PeerError, match="BAD_COUNT: expected 1 to 65, found 0"):
        rig.send(RunEnd(count=0))


def test_a_volume_of_another_shape_is_invalid_and_the_run_goes_on():
    rig = Rig().begin()

    torn = rig.volume(0, shape=(2, 2, 1))

    assert _fates(torn) == [(0, "INVALID")]
    assert _fates(rig.volume(1)) == [(1, "OK")]


def test_an_index_twice_is_refused_and_the_stream_goes_on():
    rig = Rig().begin()
    rig.volume(0)

    again = rig.volume(0, acquired_ns=NOW + 1)

    assert _kinds(again) == ["Log", "Acknowledge", "Refuse"]
    assert again[-1].reason == "DUPLICATE_VOLUME"
    assert _fates(rig.volume(1)) == [(1, "OK")]


def test_a_trial_is_announced_once():
    rig = Rig().begin()
    event = Event(trial_id="t", onset_s=0.0, duration_s=1.0)

    first, second = rig.send(event), rig.send(event)

    assert _kinds(first)[-1] == "AddTrial"
    assert second[-1].reason == "DUPLICATE_TRIAL"


def test_an_implausible_clock_is_flagged_and_not_used():
    rig = Rig().begin()

    *_, add = rig.volume(0, acquired_ns=0)

    assert add.degraded == ("TIME_ANOMALY",)
    assert add.deadline_ns == NOW + SECOND // 2


@pytest.mark.parametrize(
    ("index", "shape", "reason"),
    [(0, (2, 2, 1), "SHAPE_MISMATCH"), (1, SHAPE, "BEYOND_EXPECTED")],
)
def test_an_implausible_clock_is_also_flagged_where_the_volume_is_unusable(
    index, shape, reason
):
    rig = Rig(expected_volumes=1).begin()

    *_, skip = rig.volume(index, acquired_ns=0, shape=shape)

    assert (skip.input, skip.reason) == ("INVALID", reason)
    assert skip.degraded == ("TIME_ANOMALY",)


def test_stimulus_software_has_a_sequence_of_its_own():
    rig = Rig().begin()
    rig.hello(STIMULUS, "stimulus", "stimulus")
    event = Event(trial_id="t", onset_s=0.0, duration_s=1.0)

    actions = rig.send(event, peer=STIMULUS, stream="stimulus")

    assert actions[1] == do.Acknowledge(STIMULUS, "run-1", "stimulus", 1, 0)


@pytest.mark.parametrize(
    ("role", "record", "reason"),
    [
        ("stimulus", RunEnd(count=0), "WRONG_ROLE"),
        ("stimulus", Missing(volume_index=0), "WRONG_ROLE"),
        ("operator", Event(trial_id="t", onset_s=0, duration_s=0), "WRONG_ROLE"),
        ("scanner", Missing(volume_index=0), "BUSY: the run's scanner is 'scanner'"),
        ("scanner", RunEnd(count=0), "BUSY: the run's scanner is 'scanner'"),
    ],
)
def test_a_role_says_what_it_may_and_no_more(role, record, reason):
    rig = Rig().begin()
    rig.hello(b"other", role, "other")

    with pytest.raises(PeerError, match=reason):
        rig.send(record, peer=b"other", stream="other")


def test_a_second_scanner_waits_until_the_first_is_silent():
    rig = Rig().begin()

    with pytest.raises(PeerError, match="BUSY: stream 'scanner' has a sender"):
        rig.hello(b"scanner-2")
    rig.now += LEASE_NS
    (reply,) = rig.hello(b"scanner-2")

    assert reply.record.received == 1


def _hello(rig, peer, lease, key=""):
    device = None
    if key:
        public_key = z85_from_bytes(key.encode() * 32)
        device = Device(name=key, public_key=public_key, roles=("scanner",))
    hello = Hello(role="scanner", stream="scanner", lease=lease)
    return rig.protocol.receive(peer, encode(hello), rig.now, device)


def test_the_secret_of_the_lease_takes_the_stream_over_at_once():
    rig = Rig()
    _hello(rig, SCANNER, "secret")
    rig.send(rig.start)
    rig.volume(0)

    (reply,) = _hello(rig, b"scanner-2", "secret")

    assert (reply.record.run, reply.record.received) == ("run-1", 2)
    with pytest.raises(PeerError, match="NO_HELLO"):
        rig.send(Missing(volume_index=1))
    assert _kinds(rig.send(Missing(volume_index=1), peer=b"scanner-2")) == [
        "Log", "Acknowledge", "SkipVolume",
    ]  # fmt: skip


def two_runs():
    """Of which the first has ended, and the second is another scanner's."""
    rig = Rig().begin()
    rig.volume(0)
    rig.send(RunEnd(count=1))
    rig.hello(b"other", "scanner", "other")
    rig.give(b"other", rig.start, run="run-2", stream="other")
    return rig


def test_who_waits_for_the_run_before_still_hears_how_far_it_is():
    rig = two_runs()

    (beat,) = rig.give(SCANNER, Heartbeat(), stream="scanner")

    # START, a volume and the end.
    assert (beat.run, beat.stream, beat.received) == ("run-1", "scanner", 3)
    assert [(one.run, one.received) for one in rig.protocol.standings()] == [
        ("run-1", 3), ("run-2", 1),
    ]  # fmt: skip


def test_what_was_sent_again_of_the_run_before_is_acknowledged():
    rig = two_runs()

    (again,) = rig.give(
        SCANNER, RunEnd(count=1), run="run-1", stream="scanner", sequence=2
    )
    assert (again.run, again.received) == ("run-1", 3)
    with pytest.raises(PeerError, match="CONFLICT"):
        rig.give(SCANNER, RunEnd(count=7), run="run-1", stream="scanner", sequence=2)
    with pytest.raises(PeerError, match="WRONG_RUN: expected 'run-2'"):
        rig.give(SCANNER, RunEnd(count=1), run="run-1", stream="scanner", sequence=3)


def test_a_sender_of_the_run_before_is_greeted_with_it_and_others_with_the_newest():
    rig = two_runs()

    def greeted(run, peer, stream):
        hello = Hello(role="stimulus", stream=stream, run=run)
        (reply,) = rig.protocol.receive(peer, encode(hello), rig.now)
        welcome = reply.record
        return welcome.run, welcome.received, welcome.is_running

    rig.give(SCANNER, Goodbye(), stream="scanner")
    assert greeted("run-1", b"back", "scanner") == ("run-1", 3, False)
    assert greeted("", b"new", "stimulus") == ("run-2", 0, True)
    assert greeted("run-3", b"newer", "other-2") == ("run-2", 0, True)


def test_a_ledger_that_was_read_back_knows_the_run_before_as_well():
    rig = two_runs()

    known = Ledger.from_note(rig.protocol.ledger.note())

    assert known.heard == rig.protocol.ledger.heard
    assert [one.run_id for one in known.heard] == ["run-1", "run-2"]


def test_the_last_few_runs_are_answered_for_and_no_more():
    rig = Rig()
    rig.hello()
    for number in range(MOST_BEFORE + 3):
        header = {"run": f"run-{number}", "stream": "scanner"}
        rig.give(SCANNER, rig.start, **header)
        rig.give(SCANNER, RunEnd(count=0), sequence=1, **header)

    found = [one.run_id for one in rig.protocol.ledger.heard]

    assert found == [f"run-{number}" for number in range(2, MOST_BEFORE + 3)]


def test_a_flood_of_messages_is_not_remembered_beyond_its_run(monkeypatch):
    monkeypatch.setattr(ledger, "MOST_HEARD", 5)
    rig = Rig().begin()
    for index in range(4):
        rig.volume(index)
    rig.send(RunEnd(count=4))
    rig.give(SCANNER, rig.start, run="run-2", stream="scanner")

    # Six messages are too many, of one run as of all.
    assert [one.run_id for one in rig.protocol.ledger.heard] == ["run-2"]


def test_who_comes_for_the_end_of_another_run_is_not_the_scanner_that_is_back():
    rig = Rig().begin()
    rig.volume(0)
    known = Ledger.from_note(rig.protocol.ledger.note())
    rig.protocol = Protocol(ledger=known, now_ns=rig.now)
    patient_ns = rig.protocol.deadline_ns()

    hello = Hello(role="scanner", stream="scanner", run="run-0")
    rig.protocol.receive(b"other", encode(hello), rig.now)
    assert rig.protocol.deadline_ns() == patient_ns
    rig.protocol.receive(b"other", encode(Goodbye(stream="scanner")), rig.now)
    hello = Hello(role="scanner", stream="scanner", run="run-1")
    rig.protocol.receive(SCANNER, encode(hello), rig.now)
    assert rig.protocol.deadline_ns() < patient_ns


def test_a_run_whose_stream_was_taken_over_is_not_an_abandoned_one():
    rig = Rig()
    _hello(rig, SCANNER, "secret")
    rig.send(rig.start)
    _hello(rig, b"scanner-2", "secret")
    rig.hello(b"other", "scanner", "other")

    with pytest.raises(PeerError, match="BUSY: run 'run-1' is under way"):
        rig.give(b"other", rig.start, run="run-2", stream="other")


@pytest.mark.parametrize(
    ("first", "second"), [("secret", "guess"), ("secret", ""), ("", ""), ("", "guess")]
)
def test_without_the_secret_of_the_lease_the_stream_is_busy(first, second):
    rig = Rig()
    _hello(rig, SCANNER, first)

    with pytest.raises(PeerError, match="BUSY: stream 'scanner' has a sender"):
        _hello(rig, b"scanner-2", second)

    assert list(rig.protocol._peers) == [SCANNER]


def test_under_another_key_the_secret_of_the_lease_opens_nothing():
    rig = Rig()
    _hello(rig, SCANNER, "secret", "a")

    with pytest.raises(PeerError, match="BUSY: stream 'scanner' has a sender"):
        _hello(rig, b"scanner-2", "secret", "b")
    (reply,) = _hello(rig, b"scanner-2", "secret", "a")

    assert reply.peer == b"scanner-2"


def test_a_goodbye_frees_the_stream_at_once():
    rig = Rig().begin()

    rig.give(SCANNER, Goodbye())
    (reply,) = rig.hello(b"scanner-2")

    assert reply.record.run == "run-1"


def test_an_abandoned_run_makes_room_for_the_next():
    rig = Rig().begin()
    rig.volume(0)
    rig.now += LEASE_NS
    rig.hello(b"scanner-2")
    header = {"run": "run-2", "stream": "scanner"}

    first = rig.give(b"scanner-2", rig.start, **header)
    second = rig.give(b"scanner-2", rig.start, **header)

    assert _kinds(first) == ["Note", "EndRun"]
    assert first[1].record.aborted
    assert _kinds(second) == ["Log", "StartRun", "Acknowledge"]


def test_a_run_that_the_decoder_does_not_fit_never_begins():
    def admit(start):
        raise PeerError("BAD_GEOMETRY", "other shape")

    rig = Rig(admit=admit)
    rig.hello()

    with pytest.raises(PeerError, match="BAD_GEOMETRY"):
        rig.send(rig.start)

    assert rig.protocol.state == "IDLE"


def test_a_run_that_is_not_admitted_does_not_end_an_abandoned_one():
    def admit(start):
        if start.run != "run-1":
            raise PeerError("WRONG_BUNDLE", "another")

    rig = Rig(admit=admit).begin()
    rig.volume(0)
    rig.now += LEASE_NS
    rig.hello(b"scanner-2")

    with pytest.raises(PeerError, match="WRONG_BUNDLE: another"):
        rig.give(b"scanner-2", rig.start, run="run-2", stream="scanner")

    assert (rig.protocol.run_id, rig.protocol.state) == ("run-1", "RUNNING")


def test_an_operator_ends_a_scanners_run():
    rig = Rig().begin()
    rig.volume(0)
    rig.hello(b"operator-1", "operator", "operator")

    rig.send(RunEnd(count=1), peer=b"operator-1", stream="operator")

    assert rig.protocol.state == "ENDED"


def test_software_under_the_scanners_name_is_not_the_scanner_that_is_back():
    rig = Rig().begin()
    rig.volume(0)
    known = Ledger.from_note(rig.protocol.ledger.note())
    rig.protocol = Protocol(ledger=known, now_ns=rig.now)
    patient_ns = rig.protocol.deadline_ns()

    rig.hello(STIMULUS, "stimulus", "scanner")

    assert rig.protocol.deadline_ns() == patient_ns


def test_nobody_is_heard_before_hello():
    with pytest.raises(PeerError, match="NO_HELLO"):
        Rig().give(SCANNER, Heartbeat())


def test_a_stop_ends_the_run_as_aborted():
    rig = Rig().begin()
    rig.volume(0)

    note, end = rig.protocol.stop()

    assert note.record.what == "SERVER_STOPPED"
    assert (end.record.count, end.record.aborted) == (1, True)
    assert rig.protocol.stop() == []


@pytest.mark.parametrize("is_restarted", [False, True])
def test_the_name_of_an_earlier_run_is_not_given_again(is_restarted):
    rig = Rig()
    rig.hello()
    for name in ("run-1", "run-2", "run-3"):
        header = {"run": name, "stream": "scanner"}
        rig.give(SCANNER, rig.start, **header)
        rig.give(SCANNER, RunEnd(count=0), sequence=1, **header)
    if is_restarted:
        known = Ledger.from_note(rig.protocol.ledger.note())
        rig.protocol = Protocol(ledger=known, now_ns=rig.now)
        rig.hello()

    for name in ("run-1", "run-2"):
        with pytest.raises(PeerError, match=f"WRONG_RUN.*'{name}' has been"):
            rig.give(SCANNER, structs.replace(rig.start, tr_s=2.0), run=name,
                     stream="scanner")  # fmt: skip
    assert rig.protocol.run_id == "run-3"
    assert rig.give(SCANNER, rig.start, run="run-4", stream="scanner")


def test_names_of_earlier_runs_take_bounded_room():
    ledger = Ledger()
    for number in range(MOST_FORMER + 10):
        start = RunStart(run=f"run-{number}", stream="s", shape=SHAPE, tr_s=1,
                         expected_volumes=1, budget_s=1)  # fmt: skip
        ledger.fold(encode(start), 0)

    assert len(ledger.note().payload) < 8 * MOST_FORMER + 1000
    assert not ledger.has_had("run-0")
    assert ledger.has_had(f"run-{MOST_FORMER}")
