import pytest

from bci_bridge.messages import Ack, Heartbeat
from bci_bridge.window import WINDOW, Window
from bci_bridge.wire import encode


def _window(count: int) -> Window:
    window = Window()
    for sequence in range(count):
        window.push(encode(Heartbeat(sequence=sequence)))
    return window


def _sequences(window: Window) -> list[int]:
    return [envelope.record.sequence for envelope in window.unacknowledged()]


def test_a_full_window_has_no_room_until_something_is_received():
    window = _window(WINDOW)
    before = window.has_room

    window.acknowledge(Ack(received=1, durable=0))

    assert (before, window.has_room) == (False, True)


def test_only_what_is_not_received_is_sent_again():
    window = _window(4)

    window.acknowledge(Ack(received=2, durable=1))

    assert _sequences(window) == [2, 3]


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

    assert (window.received, window.durable, window.next) == (3, 3, 3)
    assert _sequences(window) == []
