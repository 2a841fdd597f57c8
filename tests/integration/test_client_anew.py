"""A server without a log that begins anew may give a run's name to another run."""

import pytest
from msgspec import structs
from neuroflow_client import Client, GapError, SilenceError, UnsoundError
from neuroflow_client.frames import frames_from

from bci_bridge.messages import Heartbeat, Welcome
from bci_bridge.outbox import Outbox
from bci_bridge.wire import decode, encode
from tests.integration.lines import answering
from tests.integration.test_client import (
    answering_of,
    came,
    ended_of,
    kept_of,
    volume_of,
)

BEFORE_NS, AFTER_NS = 5, 50
"""On the server's clock, to either side of the outcomes' own instant."""


def kept_with(run: str, count: int, *, has_ended: bool = False) -> Outbox:
    """What a server has after so many volumes of one run."""
    outbox = Outbox()
    outbox.start_run(run)
    for index in range(count):
        outbox.keep(encode(volume_of(run, index)))
    if has_ended:
        outbox.keep(ended_of(run, count))
    return outbox


def heard(client: Client, outbox: Outbox, sent_ns: int = AFTER_NS) -> list[object]:
    """What a client takes on the server's word of how its newest run stands."""
    return announced(
        client,
        outbox,
        Heartbeat(
            run=outbox.run_id,
            stream="server",
            sent_ns=sent_ns,
            outcome_count=outbox.count,
        ),
    )


def announced(client: Client, outbox: Outbox, said: object) -> list[object]:
    with answering_of(outbox) as replay:
        taken = client._announced(frames_from(encode(said).frames), replay)
        return [(one.run, one.outcome_index) for one in taken]


def resumed(client: Client, outbox: Outbox) -> list[object]:
    """What a client takes when it is iterated over once more."""
    with answering_of(outbox) as replay:
        return [(one.run, one.outcome_index) for one in client._come(replay)]


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(
    ("count", "has_ended"), [(1, False), (3, False), (4, True), (0, True)]
)
def test_who_waits_is_given_a_new_run_of_the_old_run_s_name(follow, count, has_ended):
    client = Client("tcp://x", follow=follow)
    assert came(client, kept_of("run-1")) == []

    taken = heard(client, kept_with("run-1", count, has_ended=has_ended))

    assert taken == [("run-1", index) for index in range(count)]
    assert (client.run, client.ended is not None) == ("run-1", has_ended)


def test_a_new_run_with_as_many_outcomes_is_known_by_what_is_announced_of_it():
    client, anew = Client("tcp://x"), kept_with("run-1", 2)
    assert came(client, kept_of("run-1")) == []

    assert announced(client, anew, volume_of("run-1", 1)) == [
        ("run-1", 0),
        ("run-1", 1),
    ]


def test_who_waits_asks_nothing_while_all_is_as_it_was():
    client = Client("tcp://x")
    assert came(client, kept_of("run-1")) == []
    beat = Heartbeat(run="run-1", stream="server", sent_ns=50, outcome_count=2)

    assert list(client._announced(frames_from(encode(beat).frames), None)) == []
    # The end of the run that is over, which waited among the announcements.
    assert announced(client, kept_of("run-1"), ended_of("run-1", 1).record) == []


def test_who_waits_does_not_lose_a_new_run_of_that_name_before_another():
    client, anew = Client("tcp://x", follow=True), kept_with("run-1", 3, has_ended=True)
    assert came(client, kept_of("run-1")) == []
    anew.keep(encode(volume_of("run-2")))

    assert heard(client, anew) == [
        *(("run-1", index) for index in range(3)),
        ("run-2", 0),
    ]


def test_word_of_a_server_that_died_before_it_was_asked_begins_no_run():
    client = Client("tcp://x")
    assert came(client, kept_of("run-1")) == []

    assert announced(client, Outbox(), volume_of("run-2")) == []
    assert client.run == ""
    # Nor does it make one that was over at first a missed one.
    again = kept_of("run-1")
    again.keep(encode(volume_of("run-2")))
    assert heard(client, again) == [("run-2", 0)]


def test_a_run_that_was_begun_anew_is_a_gap_and_then_its_new_beginning():
    client = Client("tcp://x")
    assert len(came(client, kept_with("run-1", 5))) == 5
    anew = kept_with("run-1", 1)

    # What waited since before the newest outcome was taken is no such word.
    assert heard(client, anew, BEFORE_NS) == []
    with pytest.raises(GapError) as caught:
        heard(client, anew)

    assert str(caught.value) == (
        "run run-1: expected outcomes from 5 on, found that the server does not have "
        "them"
    )
    assert resumed(client, anew) == [("run-1", 0)]
    assert heard(client, kept_with("run-1", 7, has_ended=True)) == [
        ("run-1", index) for index in range(1, 7)
    ]


def test_who_resumes_a_run_that_was_begun_anew_is_told_of_the_gap_once():
    for client in (Client("tcp://x"), Client("tcp://x", 3, run="run-1")):
        assert came(client, kept_with("run-1", 5))
        anew = kept_with("run-1", 1)

        with pytest.raises(GapError, match="run run-1: expected outcomes from 5 on"):
            resumed(client, anew)

        assert resumed(client, anew) == [("run-1", 0)]


@pytest.mark.parametrize(("count", "has_ended"), [(1, False), (2, False), (9, True)])
def test_who_follows_goes_on_with_a_new_run_of_the_same_name(count, has_ended):
    client = Client("tcp://x", follow=True)
    assert heard(client, kept_with("run-1", 3, has_ended=True))
    assert heard(client, kept_with("run-1", 3, has_ended=True)) == []

    taken = heard(client, kept_with("run-1", count, has_ended=has_ended))

    assert taken == [("run-1", index) for index in range(count)]


def test_a_named_run_that_never_was_is_a_gap_after_which_what_is_new_comes():
    over, live = kept_of("run-0", "run-1"), kept_with("run-1", 1)
    for first in (over, live):
        client = Client("tcp://x", run="run-x", follow=True)
        assert came(client, first) == []
        outbox = kept_of("run-1")
        outbox.keep(encode(volume_of("run-2")))

        with pytest.raises(GapError, match="run run-x: expected outcomes from 0 on"):
            heard(client, outbox)

        assert heard(client, outbox) == [("run-2", 0)]


def test_a_named_run_is_given_up_as_soon_as_a_server_begins_anew_with_another():
    client = Client("tcp://x", run="run-x")
    assert came(client, kept_of("run-1")) == []
    assert heard(client, kept_of("run-1")) == []

    with pytest.raises(GapError, match="run run-x: expected outcomes from 0 on"):
        heard(client, kept_with("run-1", 1))


@pytest.mark.parametrize("with_end", [False, True])
def test_a_strict_client_does_not_let_an_aborted_run_end_as_if_whole(with_end):
    outbox, taken = Outbox(), []
    for index in range(2):
        outbox.keep(encode(structs.replace(volume_of("run-1", index), degraded=())))
    outbox.keep(encode(structs.replace(ended_of("run-1", 2).record, aborted=True)))

    def answer(frames: list[bytes]) -> list[list[bytes]]:
        return [one.frames for one in outbox.replay(decode(frames).record)]

    with answering(answer) as replay:
        welcome = Welcome(publish="tcp://127.0.0.1:9", replay=replay)
        with answering(lambda frames: [encode(welcome).frames]) as address:
            client = Client(address, run="run-1", strict=True, with_end=with_end)
            with pytest.raises(UnsoundError) as caught:
                taken.extend(outcome.outcome_index for outcome in client)
            rest = list(client)

    assert str(caught.value) == (
        "run run-1: outcome 2: expected a sound one, found ABORTED"
    )
    assert (taken, rest) == ([0, 1], [])


def test_the_clock_of_a_server_whose_machine_began_anew_is_believed():
    outbox = kept_of("run-1")

    def answer(frames: list[bytes]) -> list[list[bytes]]:
        return [one.frames for one in outbox.replay(decode(frames).record)]

    with answering(answer) as replay:
        welcome = Welcome(publish="tcp://127.0.0.1:9", replay=replay)
        with answering(lambda frames: [encode(welcome).frames]) as address:
            client = Client(address, follow=True, timeout_s=0.3)
            client._begin("run-0")
            late = structs.replace(volume_of("run-0"), sent_ns=1 << 60)
            assert list(client._taken(frames_from(encode(late).frames)))
            client._is_done = True
            with pytest.raises(SilenceError):
                list(client)

    assert heard(client, outbox) == [("run-1", 0)]
