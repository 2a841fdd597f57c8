"""What is known of a sender's clock is what it said last, while it is there."""

from bci_bridge.clocks import Clocks
from bci_bridge.messages import Event, Missing, Trigger


def trigger(uncertainty_ns, stream="scanner"):
    return Trigger(
        stream=stream, volume_index=0, pulsed_ns=0, clock_uncertainty_ns=uncertainty_ns
    )


def test_the_newest_word_of_each_stream_counts():
    clocks = Clocks()
    for uncertainty_ns in (7, 9, 3):
        clocks.hear(trigger(uncertainty_ns))
    clocks.hear(
        Event(
            stream="stimulus",
            trial_id="t",
            onset_s=0.0,
            duration_s=1.0,
            clock_uncertainty_ns=5,
        )
    )

    assert clocks.of(["scanner", "stimulus"]) == {"scanner": 3, "stimulus": 5}


def test_who_does_not_say_is_unknown():
    clocks = Clocks()
    clocks.hear(Missing(stream="scanner", volume_index=0))
    clocks.hear(trigger(None))

    assert clocks.of(["scanner"]) == {}


def test_silence_about_the_clock_takes_nothing_back():
    clocks = Clocks()
    clocks.hear(trigger(7))
    clocks.hear(trigger(None))

    assert clocks.of(["scanner"]) == {"scanner": 7}


def test_who_has_left_is_unknown_also_when_it_comes_back():
    clocks = Clocks()
    clocks.hear(trigger(7))

    assert clocks.of([]) == {}
    assert clocks.of(["scanner"]) == {}
