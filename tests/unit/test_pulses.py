"""Pulses become acquisitions, of the right run; devices tell when they came."""

import os
import pty
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources import pulses
from bci_bridge.sources.pulse_devices import Keyboard, LslMarker, SerialPort
from bci_bridge.sources.pulses import PulseClock, PulsePlan
from runtime.errors import BackendError, ScanError, UsageError

SECOND = 1_000_000_000


def clock(**changes):
    return PulseClock(PulsePlan(**{"run": "rest", **changes}))


def pulsed(one, times_s):
    for at_s in times_s:
        one.take(round(at_s * SECOND))


def indices(one):
    return [index for index, _ in one.due()]


def test_pulses_wait_for_the_run_that_the_first_volume_begins():
    one = clock(discard=2)
    pulsed(one, range(5))
    assert one.due() == []
    one.attend("rest")
    assert one.due() == [(0, 2 * SECOND), (1, 3 * SECOND), (2, 4 * SECOND)]
    pulsed(one, [5])

    assert indices(one) == [3]


def test_a_pause_begins_a_count_anew_for_the_run_that_begins_next():
    one = clock()
    pulsed(one, [0, 1])
    one.attend("rest")
    assert indices(one) == [0, 1]
    # The operator has started the scanner again; nobody has noticed yet.
    pulsed(one, [10, 11])
    assert one.due() == []
    one.attend("")
    one.attend("rest-2")
    assert indices(one) == [0, 1]
    pulsed(one, [12])

    assert (indices(one), one.run, one.n_ended) == ([2], "rest-2", 1)


def test_a_run_that_was_under_way_before_its_pulses_gets_them():
    one = clock()
    one.attend("rest")
    pulsed(one, [0, 1])

    assert indices(one) == [0, 1]


def test_pulses_of_a_run_that_is_over_are_nobodys():
    one = clock(runs=1)
    pulsed(one, [0])
    one.attend("rest")
    one.due()
    one.attend("")
    pulsed(one, [1])
    one.attend("rest-2")

    assert one.due() == []
    assert one.is_done


def test_a_lost_pulse_shifts_nothing_where_the_tr_is_known():
    one = clock(tr_s=1.5)
    pulsed(one, [0, 1.5, 4.51, 6.02])
    one.attend("rest")

    assert indices(one) == [0, 1, 3, 4]


def test_a_tr_that_is_not_quite_right_shifts_nothing():
    one = clock(tr_s=1.5)
    pulsed(one, [1.498 * number for number in range(1000)])
    one.attend("rest")

    assert indices(one) == list(range(1000))


def test_what_pulses_on_for_ever_is_not_kept(monkeypatch):
    monkeypatch.setattr(pulses, "_MOST", 10)
    one = clock(discard=2)
    pulsed(one, range(50))
    one.attend("rest")

    assert indices(one) == list(range(10))


def test_a_pulse_of_something_else_shifts_nothing():
    for stray_s in (0.4, 0.74, 0.75, 0.76, 1.2):
        one = clock(tr_s=1.5)
        pulsed(one, [0, 1.5, 1.5 + stray_s, 3.0, 4.5, 7.5])
        one.attend("rest")

        assert indices(one) == [0, 1, 2, 3, 5]


def test_pulses_of_slices_are_numbered_by_their_time():
    one = clock(tr_s=1.5, every=3)
    pulsed(one, [0, 0.5, 1.0, 1.5, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0])
    one.attend("rest")

    assert indices(one) == [0, 1, 2, 4]


@pytest.mark.parametrize(("every", "wanted"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 1])])
def test_a_scanner_can_pulse_more_than_once_an_acquisition(every, wanted):
    one = clock(every=every)
    pulsed(one, [0, 0.1, 0.2, 0.3, 0.4, 0.5])
    one.attend("rest")

    assert indices(one) == wanted


def test_a_key_that_bounces_is_one_pulse():
    one = clock()
    pulsed(one, [0, 0.001, 0.004, 1, 1.01])
    one.attend("rest")

    assert indices(one) == [0, 1]


@given(
    st.lists(st.floats(0.03, 4.9), max_size=40),
    st.integers(0, 5),
    st.integers(1, 3),
)
def test_each_acquisition_is_said_once_and_in_order(pauses, discard, every):
    one, at_s = clock(discard=discard, every=every), 0.0
    for pause in [0.0, *pauses]:
        at_s += pause
        pulsed(one, [at_s])
    one.attend("rest")
    found = indices(one)
    n_acquisitions = -(-(len(pauses) + 1) // every)

    assert found == list(range(max(0, n_acquisitions - discard)))


@pytest.mark.parametrize(
    ("run", "is_ours"),
    [("rest", True), ("rest-2", True), ("rest-x", False), ("rest2", False)],
)
def test_a_run_and_its_repetitions_are_followed(run, is_ours):
    assert PulsePlan(run="rest").is_ours(run) is is_ours


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "--every: expected 1 to 1000, found 0"),
        ({"tr_s": 6.0}, "--quiet-s: expected more than a TR of 6 s, found 5"),
        (
            {"run": "a/b"},
            "--run: expected a letter or digit, then up to 127 letters, digits and "
            "._+-, found 'a/b'. Put - in the place of others",
        ),
    ],
)
def test_an_impossible_plan_is_refused(changes, message):
    with pytest.raises(UsageError) as refused:
        PulsePlan(**{"run": "rest", **changes})

    assert str(refused.value) == message


@pytest.fixture
def terminal():
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_a_key_of_a_terminal_is_a_pulse(terminal):
    ours, theirs = terminal
    keyboard = Keyboard("5", fd=theirs, clock_ns=lambda: 77)
    os.write(ours, b"5x55")

    assert keyboard.pulses(1.0) == [77, 77, 77]
    assert keyboard.pulses(0.0) == []
    keyboard.close()


def test_a_keyboard_that_is_closed_is_one_clear_line():
    ours, theirs = os.pipe()
    keyboard = Keyboard(fd=ours)
    os.close(theirs)
    with pytest.raises(ScanError, match="expected keys, found the input closed"):
        keyboard.pulses(0.1)
    os.close(ours)


def test_a_keyboard_without_an_input_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ScanError, match="keyboard: expected keys, found the input clo"):
        Keyboard()


def test_a_byte_is_one_byte():
    with pytest.raises(UsageError, match="--pulse-byte: expected 0 to 255, found 300"):
        SerialPort("/dev/null", byte=300)


def test_a_key_is_one_character():
    with pytest.raises(UsageError, match="--pulse-key: expected one character"):
        Keyboard("TR")


@pytest.mark.parametrize(("byte", "n_pulses"), [(None, 4), (0x54, 2)])
def test_bytes_of_a_serial_port_are_pulses(terminal, byte, n_pulses):
    ours, theirs = terminal
    port = SerialPort(os.ttyname(theirs), byte=byte, clock_ns=lambda: 77)
    os.write(ours, b"TRTR")

    assert port.pulses(1.0) == [77] * n_pulses
    assert port.pulses(0.0) == []
    port.close()


def test_a_missing_serial_port_is_one_clear_line():
    with pytest.raises(ScanError, match="/dev/none: expected a free serial port"):
        SerialPort("/dev/none")


@pytest.mark.parametrize("name", ["serial", "pylsl"])
def test_a_missing_library_names_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    kind, extra = (SerialPort, "trigger") if name == "serial" else (LslMarker, "lsl")
    with pytest.raises(BackendError, match=f"Install the extra `{extra}`"):
        kind("somewhere")


class Inlet:
    """What pylsl gives of a stream whose clock is 100 s ahead of this host's."""

    def __init__(self, _info, recover):
        self.samples = [(["TR"], 105.0), (["other"], 105.5), (["TR"], 106.0)]

    def pull_sample(self, timeout):
        return self.samples.pop(0) if self.samples else (None, None)

    def time_correction(self, timeout):
        return -100.0

    def close_stream(self):
        pass


def test_a_marker_brings_its_own_time(monkeypatch):
    lsl = types.SimpleNamespace(
        resolve_byprop=lambda prop, name, timeout: ["info"] if name == "TTL" else [],
        StreamInlet=Inlet,
        local_clock=lambda: 8.0,
    )
    monkeypatch.setitem(sys.modules, "pylsl", lsl)
    marker = LslMarker("TTL", "TR", clock_ns=lambda: 50 * SECOND)

    assert marker.pulses(0.0) == [47 * SECOND, 48 * SECOND]
    marker.close()
    with pytest.raises(ScanError, match="LSL stream 'none': expected one within 10 s"):
        LslMarker("none")
