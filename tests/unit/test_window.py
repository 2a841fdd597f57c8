import pytest

from bci_bridge.messages import Ack, Heartbeat
from bci_bridge.window import WINDOW, Window
from bci_bridge.wire import encode


def _window(count: int) -> Window:
    window = Window()
    for sequence in range(count):
        window.push(encode(Heartbeat(sequence=sequence)))
    return window


def _sent(window: Window) -> list[int]:
    due = window.due()
    window.sent_up_to(due.stop)
    return list(due)


def test_what_is_beyond_the_window_waits_until_something_is_received():
    window = _window(WINDOW + 3)
    first, second = _sent(window), _sent(window)

    window.acknowledge(Ack(received=2, durable=0))

    assert (first, second) == (list(range(WINDOW)), [])
    assert _sent(window) == [WINDOW, WINDOW + 1]
    assert window.is_full


def test_only_what_is_not_received_is_sent_again():
    window = _window(4)
    _sent(window)

    window.acknowledge(Ack(received=2, durable=1))
    before = _sent(window)
    window.go_back()

    assert before == []
    assert _sent(window) == [2, 3]


def test_what_is_received_but_not_durable_is_still_held():
    window = _window(4)
    window.acknowledge(Ack(received=3, durable=1))

    can_resume = {received: window.resume(received) for received in (0, 5, 1)}

    assert can_resume == {0: False, 5: False, 1: True}
    assert _sent(window) == [1, 2, 3]
    assert window.kept(0) is None
    assert [window.kept(n).record.sequence for n in (1, 2, 3)] == [1, 2, 3]


def test_memory_is_bounded_and_what_is_spooled_needs_none(monkeypatch):
    monkeypatch.setattr("bci_bridge.window.KEEP_BYTES", 10)
    window = Window()
    for sequence in range(3):
        envelope = encode(Heartbeat(sequence=sequence), bytes(6))
        window.push(envelope, is_spooled=True)

    assert not window.has_memory
    assert [window.kept(n) is None for n in range(3)] == [False, False, True]
    window.acknowledge(Ack(received=1, durable=1))
    assert window.has_memory


def test_received_is_not_settled_until_it_is_durable():
    window = _window(2)

    received = window.acknowledge(Ack(received=2, durable=0))
    settled_before = window.is_settled
    durable = window.acknowledge(Ack(received=2, durable=2))

    assert (received, durable) == ((True, False), (False, True))
    assert (settled_before, window.is_settled) == (False, True)


@pytest.mark.parametrize("recording", ["OFF", "DEGRADED"])
def test_where_nothing_is_recorded_received_settles(recording):
    window = _window(2)

    window.acknowledge(Ack(received=2, durable=0, recording=recording))

    assert window.is_settled


def test_an_old_or_an_impossible_acknowledgement_changes_nothing_for_the_worse():
    window = _window(3)
    window.acknowledge(Ack(received=2, durable=2))

    window.acknowledge(Ack(received=1, durable=1))
    window.acknowledge(Ack(received=99, durable=99))

    assert (window.received, window.first, window.next) == (3, 3, 3)
    assert _sent(window) == []
