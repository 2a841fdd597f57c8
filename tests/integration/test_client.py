"""The client by itself: it skips nothing in silence, and knows all that is emitted."""

import contextlib
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs
from neuroflow_client import (
    ArgumentError,
    Client,
    GapError,
    ProtocolError,
    SilenceError,
    TrialOutcome,
    UnsoundError,
    VolumeOutcome,
    line,
)
from neuroflow_client.frames import frames_from, outcome_from, request
from neuroflow_client.outcomes import KINDS

from bci_bridge import outcomes
from bci_bridge.arrays import bytes_from_arrays
from bci_bridge.header import Header
from bci_bridge.messages import Heartbeat, ReplayDone, Update, Welcome
from bci_bridge.outbox import KEPT_RUNS, Outbox
from bci_bridge.player import play
from bci_bridge.wire import OUTCOME_HEADER_BYTES, Envelope, decode, encode
from tests.integration.lines import (
    announcements_without,
    answering,
    dealer,
    lossy_announcements,
)
from tests.integration.tiny import PlayedEvent, PlayedRun

COMMON = {
    "run": "run-1",
    "stream": "server",
    "sequence": 4,
    "sent_ns": 11,
    "outcome_index": 4,
    "decided_ns": 9,
    "published_ns": 10,
    "degraded": ("LATE_DROPPED",),
    "bundle_sha256": "a" * 64,
    "gallery_sha256": "b" * 64,
    "preprocessing_sha256": "c" * 64,
    "overlay_sha256": "d" * 64,
    "stage_ns": {"glm": 5},
    "arrays": ("z_v",),
}
SAID = {
    "decision": "ANSWER",
    "label": "cat",
    "confidence": 0.5,
    "candidates": (
        outcomes.ScoredStimulus(stimulus_id="i.jpg", label="cat", cosine=0.5),
    ),
}
EMITTED = [
    outcomes.VolumeOutcome(
        **COMMON,
        **SAID,
        volume_index=3,
        input="INVALID",
        timing="LATE",
        reason="NOT_FINITE",
        quality={"mean": 1.5},
        input_crc32=7,
        acquired_ns=1,
        received_ns=2,
        deadline_ns=3,
        clock_offset_ns=4,
        clock_uncertainty_ns=5,
        abstention="none",
    ),
    outcomes.TrialOutcome(
        **COMMON,
        **SAID,
        trial_id="t-1",
        abstention="none",
        onset_s=1.0,
        delay_s=6.0,
        first_volume=1,
        last_volume=2,
        volumes_used=2,
        timing="CATCHUP",
        after_volume=2,
    ),
    outcomes.Update(**COMMON, **SAID, trial_id="t-1", delay_s=6.0),
    outcomes.RunEnded(
        **COMMON, count=5, aborted=True, inputs={"OK": 1}, decisions={"ANSWER": 1}
    ),
]


@pytest.mark.parametrize("emitted", EMITTED, ids=lambda one: type(one).__name__)
def test_every_outcome_decodes_field_by_field(emitted):
    z_v = np.float32([[1, 2], [3, 4]])
    envelope = encode(emitted, bytes_from_arrays({"z_v": z_v}))

    received = outcome_from(frames_from(envelope.frames))

    wire_only = {"version", "stream", "nbytes", "crit"}
    assert set(received.__struct_fields__) == (
        set(emitted.__struct_fields__) - wire_only
    )
    for name in set(received.__struct_fields__) - {"arrays"}:
        assert msgspec.to_builtins(getattr(received, name)) == msgspec.to_builtins(
            getattr(emitted, name)
        ), name
    assert set(received.arrays) == {"z_v"}
    np.testing.assert_array_equal(received.arrays["z_v"], z_v)


def test_the_contract_covers_every_kind_of_outcome():
    kinds = {type(one).__struct_config__.tag for one in EMITTED}

    assert kinds == set(KINDS)
    assert issubclass(Update, Header)


def test_a_field_of_the_future_is_ignored_unless_it_is_critical():
    record = msgspec.to_builtins(EMITTED[0]) | {"mood": "good"}
    record.pop("kind")
    wire_safe = {key: value for key, value in record.items() if key != "arrays"}

    received = outcome_from(frames_from(request("VOLUME_OUTCOME", **wire_safe)))
    with pytest.raises(ProtocolError, match=r"found \['mood'\]. Install a newer"):
        outcome_from(
            frames_from(request("VOLUME_OUTCOME", **(wire_safe | {"crit": ["mood"]})))
        )

    assert received.volume_index == 3


def test_a_damaged_message_is_a_protocol_error():
    header, _ = encode(EMITTED[0]).frames

    with pytest.raises(ProtocolError):
        frames_from([header, b"x"])


def test_the_requests_of_the_client_are_the_bridge_s_messages():
    hello = decode(request("HELLO", versions=[1], role="observer")).record
    replay = decode(request("REPLAY", run="run-1", from_index=3, sequence=2)).record

    assert (hello.role, hello.versions) == ("observer", (1,))
    assert (replay.run, replay.from_index, replay.sequence) == ("run-1", 3, 2)


@pytest.mark.slow
def test_who_comes_late_gets_everything_or_from_where_he_asks(running):
    server = running()
    play(PlayedRun("run-1", 600), server.address, None)

    everything = list(Client(server.address, run="run-1"))
    rest = list(Client(server.address, 598, run="run-1"))

    assert [o.outcome_index for o in everything] == list(range(600))
    assert [o.outcome_index for o in rest] == [598, 599]


@pytest.mark.slow
def test_who_comes_early_gets_everything_as_it_happens(running):
    server = running()
    client = Client(server.address)
    received = []
    thread = threading.Thread(target=lambda: received.extend(client))
    thread.start()

    play(PlayedRun("run-1", 50, (PlayedEvent("t-1", 3.0),)), server.address, None)
    thread.join(10)

    assert [o.outcome_index for o in received] == list(range(51))
    (trial,) = (o for o in received if isinstance(o, TrialOutcome))
    assert trial.arrays["z_v"].dtype == np.float32
    assert (client.ended.count, client.ended.inputs) == (50, {"OK": 50})


@pytest.mark.slow
def test_lost_announcements_are_asked_for_again(running):
    server = running()
    with lossy_announcements(server.endpoints.publish, every=3) as publish:
        welcome = Welcome(publish=publish, replay=server.endpoints.replay)
        with answering(lambda frames: [encode(welcome).frames]) as address:
            received = []
            thread = threading.Thread(target=lambda: received.extend(Client(address)))
            thread.start()

            play(PlayedRun("run-1", 50), server.address, None)
            thread.join(10)

    assert [o.outcome_index for o in received] == list(range(50))


def test_a_question_to_a_publisher_that_died_is_asked_again(monkeypatch):
    monkeypatch.setattr(line, "_ASK_AGAIN_MS", 20)
    asked = []
    ended = outcomes.RunEnded(
        run="run-1", outcome_index=0, decided_ns=0, published_ns=0, count=0,
        aborted=False,
    )  # fmt: skip

    def answer(frames: list[bytes]) -> list[list[bytes]]:
        asked.append(decode(frames).record)
        if len(asked) < 3:
            return []  # it died before it could
        done = ReplayDone(
            run="run-1",
            sequence=asked[-1].sequence,
            next_index=1,
            outcome_count=1,
            has_ended=True,
        )
        return [encode(ended).frames, encode(done).frames]

    with answering(answer) as replay:
        welcome = Welcome(publish="tcp://127.0.0.1:9", replay=replay)
        with answering(lambda frames: [encode(welcome).frames]) as address:
            received = list(Client(address, run="run-1"))

    assert received == []
    assert len(asked) == 3
    assert {one.sequence for one in asked} == {1}


def test_what_cannot_be_had_again_is_a_gap_error():
    def answer(frames: list[bytes]) -> list[list[bytes]]:
        asked = decode(frames).record
        done = ReplayDone(
            run="run-1",
            sequence=asked.sequence,
            next_index=5,
            outcome_count=5,
            has_ended=False,
        )
        return [encode(done).frames]

    with answering(answer) as replay:
        welcome = Welcome(publish="tcp://127.0.0.1:9", replay=replay)
        with (
            answering(lambda frames: [encode(welcome).frames]) as address,
            pytest.raises(GapError) as caught,
        ):
            list(Client(address))

    assert str(caught.value) == (
        "run run-1: expected outcomes 0 to 4, found that the server no longer has them"
    )


def test_what_the_server_has_lost_is_a_gap_beyond_which_the_same_client_goes_on():
    outbox = Outbox()
    for index in (0, 1, 4, 5, 7):
        outbox.keep(encode(structs.replace(volume_of("run-1"), outcome_index=index)))
    ended = outcomes.RunEnded(
        **(COMMON | {"run": "run-1", "outcome_index": 8, "arrays": ()}),
        count=8,
        aborted=False,
    )
    outbox.keep(encode(ended))
    taken, gaps = [], []
    client = Client("tcp://x", run="run-1")
    beat = Heartbeat(run="run-1", stream="server", sent_ns=50, outcome_count=9)

    with answering_of(outbox) as replay:
        while client.ended is None:
            try:
                said = client._announced(frames_from(encode(beat).frames), replay)
                taken.extend(one.outcome_index for one in said)
            except GapError as error:
                gaps.append((error.run, error.first, error.last))

    assert taken == [0, 1, 4, 5, 7]
    assert gaps == [("run-1", 2, 3), ("run-1", 6, 6)]


def test_an_index_belongs_to_a_run_and_to_none_is_an_error():
    with pytest.raises(ValueError, match="expected the run") as caught:
        Client("tcp://x", 4)
    with pytest.raises(ArgumentError) as negative:
        Client("tcp://x", -1, run="run-1")

    assert isinstance(caught.value, ArgumentError)
    assert str(caught.value) == (
        "from_index 4: expected the run that it belongs to, found none. Name it: "
        "run=..., as every outcome says"
    )
    assert str(negative.value) == "from_index: expected 0 or more, found -1"


@pytest.mark.parametrize("has_ended", [False, True])
def test_an_index_beyond_what_a_run_has_is_an_error(has_ended):
    outbox = kept_of("run-1", "run-2")
    if not has_ended:
        outbox.keep(encode(volume_of("run-2", 2)))

    with pytest.raises(ArgumentError) as caught:
        came(Client("tcp://x", 500, run="run-2"), outbox)

    assert str(caught.value) == (
        f"from_index 500: expected at most {2 if has_ended else 3}, the outcomes of "
        "run run-2. Give one more than the last that you had"
    )


def test_a_run_of_which_outcomes_came_and_that_is_gone_is_a_gap_at_once():
    with pytest.raises(GapError) as caught:
        came(Client("tcp://x", 3, run="run-1"), kept_of("run-2"))

    error = caught.value
    assert (error.run, error.first, error.last) == ("run-1", 3, None)


def test_a_run_that_may_come_is_waited_for_until_another_begins():
    """Whether it is gone or still to come, a server cannot tell."""
    client, outbox = Client("tcp://x", run="run-4"), kept_of("run-1", "run-2")

    assert came(client, outbox) == []
    assert heard(client, outbox, "run-2") == []
    # Word of an earlier run, which waited among the announcements.
    assert heard(client, outbox, "run-1") == []
    outbox.keep(encode(volume_of("run-3")))
    with pytest.raises(GapError) as caught:
        heard(client, outbox, "run-3")

    assert str(caught.value) == (
        "run run-4: expected outcomes from 0 on, found that the server does not have "
        "them"
    )


def test_a_named_run_that_is_over_is_handed_out_and_one_that_begins_too():
    over, next_one = Client("tcp://x", run="run-1"), Client("tcp://x", run="run-2")
    outbox = kept_of("run-1")

    assert came(over, outbox) == ["run-1"]
    assert came(next_one, outbox) == []
    assert heard(next_one, kept_of("run-1", "run-2"), "run-2") == ["run-2"]


def test_a_client_that_comes_between_two_runs_is_not_given_the_one_that_is_over():
    for follow in (False, True):
        client, outbox = Client("tcp://x", follow=follow), kept_of("run-0", "run-1")

        assert came(client, outbox) == []
        assert heard(client, outbox, "run-1") == []
        assert heard(client, outbox, "run-0") == []
        assert (client.run, client.ended) == ("", None)
        outbox = kept_of("run-1", "run-2", "run-3")
        expected = ["run-2", "run-3"] if follow else ["run-2"]

        assert heard(client, outbox, "run-3") == expected


def test_a_client_that_comes_in_a_run_is_given_it_from_its_beginning():
    outbox = kept_of("run-1")
    outbox.keep(encode(volume_of("run-2")))

    assert came(Client("tcp://x"), outbox) == ["run-2"]


def test_the_end_of_a_run_is_an_outcome_for_who_wants_it():
    client = Client("tcp://x", run="run-1", with_end=True)

    with answering_of(kept_of("run-1")) as replay:
        *_, last = client._come(replay)

    assert last is client.ended
    assert (last.run, last.faults) == ("run-1", ())


@pytest.mark.parametrize(
    ("emitted", "changes", "faults"),
    [
        (EMITTED[0], {"input": "OK", "reason": ""}, ("LATE", "LATE_DROPPED")),
        (
            EMITTED[0],
            {"input": "MISSING", "reason": "DEADLINE", "timing": "LIVE"},
            ("MISSING", "DEADLINE", "LATE_DROPPED"),
        ),
        (EMITTED[1], {"degraded": ()}, ("CATCHUP",)),
        (EMITTED[1], {"timing": "LIVE"}, ("LATE_DROPPED",)),
        (EMITTED[2], {"degraded": ("RECORDING_DEGRADED",)}, ("RECORDING_DEGRADED",)),
        (EMITTED[3], {"degraded": ()}, ("ABORTED",)),
    ],
)
def test_what_must_not_be_acted_upon_is_not_sound_and_says_why(
    emitted, changes, faults
):
    outcome = as_received(structs.replace(emitted, **changes))

    assert outcome.faults == faults
    assert not outcome.is_sound


@pytest.mark.parametrize(
    "changes",
    [{"decision": "ANSWER"}, {"decision": "ABSTAIN"}, {"decision": "WARMING"}],
)
def test_what_is_whole_and_in_time_is_sound_whatever_it_decides(changes):
    """An abstention is an answer of its own: it is honest, and no fault."""
    sound = {"degraded": (), **changes}

    assert as_received(
        structs.replace(EMITTED[0], input="OK", reason="", timing="LIVE", **sound)
    ).is_sound
    assert as_received(structs.replace(EMITTED[1], timing="LIVE", **sound)).is_sound
    assert as_received(structs.replace(EMITTED[2], **sound)).is_sound


def test_a_strict_client_raises_what_is_not_sound_and_goes_on_behind_it():
    outbox = Outbox()
    for index, timing in enumerate(["LIVE", "LATE", "LIVE"]):
        one = structs.replace(volume_of("run-1", index), timing=timing, degraded=())
        outbox.keep(encode(one))
    outbox.keep(ended_of("run-1", 3))
    taken, refused = [], []

    with answering(
        lambda frames: [one.frames for one in outbox.replay(decode(frames).record)]
    ) as replay:
        welcome = Welcome(publish="tcp://127.0.0.1:9", replay=replay)
        with answering(lambda frames: [encode(welcome).frames]) as address:
            client = Client(address, run="run-1", strict=True)
            while client.ended is None:
                try:
                    taken.extend(outcome.outcome_index for outcome in client)
                except UnsoundError as error:
                    refused.append((error.outcome.outcome_index, str(error)))
            lax = [one.outcome_index for one in Client(address, run="run-1")]

    assert taken == [0, 2]
    assert refused == [(1, "run run-1: outcome 1: expected a sound one, found LATE")]
    assert lax == [0, 1, 2]


@pytest.mark.slow
def test_following_goes_on_with_the_next_run(running):
    server = running()
    play(PlayedRun("run-1", 3), server.address, None)
    following = iter(Client(server.address, run="run-1", follow=True))

    first = list(islice(following, 3))
    play(PlayedRun("run-2", 3), server.address, None)
    second = list(islice(following, 3))
    following.close()

    assert [o.run for o in first + second] == ["run-1"] * 3 + ["run-2"] * 3
    assert all(isinstance(o, VolumeOutcome) for o in first + second)


@pytest.mark.slow
def test_a_run_none_of_whose_announcements_came_is_asked_for_in_its_place(running):
    server = running()

    def is_of_run_2(frames: list[bytes]) -> bool:
        return frames_from(frames).said.run == "run-2"

    with announcements_without(server.endpoints.publish, is_of_run_2) as publish:
        welcome = Welcome(publish=publish, replay=server.endpoints.replay)
        with answering(lambda frames: [encode(welcome).frames]) as address:
            play(PlayedRun("run-1", 3), server.address, None)
            following = iter(Client(address, run="run-1", follow=True))
            received = list(islice(following, 3))
            for name in ("run-2", "run-3"):
                play(PlayedRun(name, 3), server.address, None)
            last = ("run-3", 2)
            for outcome in following:
                received.append(outcome)
                if (outcome.run, outcome.volume_index) == last:
                    break
            following.close()

    assert [(o.run, o.volume_index) for o in received] == [
        (f"run-{run}", index) for run in (1, 2, 3) for index in range(3)
    ]


def kept_of(*runs: str) -> Outbox:
    """What a server has after these runs, each of a volume and its end."""
    outbox = Outbox()
    for run in runs:
        outbox.keep(encode(volume_of(run)))
        outbox.keep(ended_of(run, 1))
    return outbox


def volume_of(run: str, index: int = 0) -> outcomes.VolumeOutcome:
    return outcomes.VolumeOutcome(
        **(COMMON | {"run": run, "outcome_index": index, "arrays": ()}),
        volume_index=index,
        input="OK",
        timing="LIVE",
    )


def ended_of(run: str, count: int) -> Envelope:
    said = {"run": run, "outcome_index": count, "arrays": (), "degraded": ()}
    return encode(outcomes.RunEnded(**(COMMON | said), count=count, aborted=False))


def as_received(emitted: outcomes.Outcome) -> Any:
    """What a client makes of an outcome."""
    return outcome_from(frames_from(encode(emitted).frames))


@contextlib.contextmanager
def answering_of(outbox: Outbox) -> Iterator[Any]:
    """A line to a server that has these outcomes."""

    def answer(frames: list[bytes]) -> list[list[bytes]]:
        return [one.frames for one in outbox.replay(decode(frames).record)]

    with answering(answer) as address, dealer(address) as replay:
        yield replay


def came(client: Client, outbox: Outbox) -> list[str]:
    """Let a client come; return the runs of which it then has an outcome."""
    with answering_of(outbox) as replay:
        return [outcome.run for outcome in client._come(replay)]


def heard(client: Client, outbox: Outbox, run: str, **said: object) -> list[str]:
    """Announce a run to a client; return the runs of which it then has an outcome."""

    def answer(frames: list[bytes]) -> list[list[bytes]]:
        *found, done = outbox.replay(decode(frames).record)
        told = msgspec.to_builtins(done.record) | said
        told = {name: value for name, value in told.items() if value is not None}
        return [*(one.frames for one in found), request(told.pop("kind"), **told)]

    beat = Heartbeat(run=run, stream="server", sent_ns=50, outcome_count=2)
    with answering(answer) as address, dealer(address) as replay:
        yielded = client._announced(frames_from(encode(beat).frames), replay)
        return [outcome.run for outcome in yielded]


def test_of_runs_that_began_since_a_client_came_it_is_given_the_first_one_first():
    one, all_of_them = Client("tcp://x"), Client("tcp://x", follow=True)
    outbox = kept_of("run-1", "run-2")

    assert heard(one, outbox, "run-2") == ["run-1"]
    assert one.ended.run == "run-1"
    assert heard(all_of_them, outbox, "run-2") == ["run-1", "run-2"]


def test_a_missed_run_that_is_no_longer_kept_is_a_gap_that_names_it():
    client = Client("tcp://x", run="run-1", follow=True)
    assert heard(client, kept_of("run-1"), "run-1") == ["run-1"]
    later = [f"run-{2 + number}" for number in range(KEPT_RUNS + 1)]

    with pytest.raises(GapError) as caught:
        heard(client, kept_of("run-1", *later), later[-1])

    assert str(caught.value) == (
        "run run-2: expected outcomes from 0 on, found that the server does not have "
        "them"
    )
    assert (client.run, client.next_index) == ("run-2", 0)
    # The same client goes on behind it.
    kept = kept_of("run-1", *later)
    assert heard(client, kept, later[-1]) == later[-KEPT_RUNS:]


def test_a_server_that_began_anew_or_tells_of_no_run_before_is_followed():
    for outbox, said in (
        (kept_of("run-2", "run-3"), {}),
        (kept_of("run-1", "run-2", "run-3"), {"run_before": None}),
    ):
        client = Client("tcp://x", run="run-1", follow=True)
        heard(client, kept_of("run-1"), "run-1")
        expected = ["run-3"] if said else ["run-2", "run-3"]

        assert heard(client, outbox, "run-3", **said) == expected


def test_runs_that_come_before_each_other_are_a_protocol_error():
    client = Client("tcp://x", run="run-1", follow=True)
    heard(client, kept_of("run-1"), "run-1")

    with pytest.raises(ProtocolError, match="expected an earlier run before it"):
        heard(client, kept_of("run-2", "run-3"), "run-3", run_before="run-3")


def test_an_old_word_about_the_run_before_does_not_end_the_run_that_is_replayed():
    """It waits among the announcements while the new run's start is being replayed."""
    client = Client("tcp://127.0.0.1:9", run="run-2")
    first = outcomes.VolumeOutcome(
        **(COMMON | {"run": "run-2", "sent_ns": 100, "outcome_index": 0, "arrays": ()}),
        volume_index=0,
        input="OK",
        timing="LIVE",
    )
    ended = Heartbeat(run="run-1", stream="server", sent_ns=50, outcome_count=9)

    taken = list(client._taken(frames_from(encode(first).frames)))
    said = list(client._announced(frames_from(encode(ended).frames), replay=None))

    assert [o.volume_index for o in taken] == [0]
    assert said == []


def test_a_run_that_begins_while_another_s_end_is_looked_into_goes_on():
    """The old word arrives before anything of the awaited run, its replay after it."""
    first = outcomes.VolumeOutcome(
        **(COMMON | {"run": "run-2", "sent_ns": 100, "outcome_index": 0, "arrays": ()}),
        volume_index=0,
        input="OK",
        timing="LIVE",
    )

    def answer(frames: list[bytes]) -> list[list[bytes]]:
        asked = decode(frames).record
        done = ReplayDone(
            run="run-2",
            sequence=asked.sequence,
            next_index=1,
            outcome_count=1,
            has_ended=False,
        )
        return [encode(first).frames, encode(done).frames]

    client = Client("tcp://127.0.0.1:9", run="run-2")
    ended = Heartbeat(run="run-1", stream="server", sent_ns=50, outcome_count=9)
    with answering(answer) as address, dealer(address) as replay:
        said = list(client._announced(frames_from(encode(ended).frames), replay))

    assert [o.volume_index for o in said] == [0]
    assert client.next_index == 1


def test_silence_is_an_error_that_names_the_server():
    with pytest.raises(SilenceError) as caught:
        list(Client("tcp://127.0.0.1:9", timeout_s=0.1))

    assert str(caught.value) == (
        "server tcp://127.0.0.1:9: expected a sign of life within 0.1 s, "
        "found none. Is it running? If so, does it ask for keys?"
    )


def test_a_server_that_falls_silent_in_a_run_is_an_error_after_what_it_said():
    outbox, taken = Outbox(), []
    outbox.keep(encode(volume_of("run-1")))

    def answer(frames: list[bytes]) -> list[list[bytes]]:
        return [one.frames for one in outbox.replay(decode(frames).record)]

    with answering(answer) as replay:
        welcome = Welcome(publish="tcp://127.0.0.1:9", replay=replay)
        with answering(lambda frames: [encode(welcome).frames]) as address:
            client = Client(address, timeout_s=0.3)
            with pytest.raises(SilenceError, match=r"sign of life within 0\.3 s"):
                taken.extend(outcome.outcome_index for outcome in client)

    assert taken == [0]
    assert (client.run, client.next_index) == ("run-1", 1)


@pytest.mark.slow
def test_a_live_run_is_answered_within_its_deadline(running):
    server = running()
    received = []
    thread = threading.Thread(target=lambda: received.extend(Client(server.address)))
    thread.start()

    began_s = time.monotonic()
    play(PlayedRun("run-1", 5, tr_s=1.0), server.address, 20.0)
    took_s = time.monotonic() - began_s
    thread.join(10)

    assert took_s >= 5 / 20
    assert [o.timing for o in received] == ["LIVE"] * 5
    assert all(o.decided_ns <= o.deadline_ns for o in received)
    assert len(encode(EMITTED[0]).header) < OUTCOME_HEADER_BYTES
