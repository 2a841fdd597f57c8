"""Questions to a publisher pass a bucket, as what comes to an ingress does."""

import contextlib

import pytest

from bci_bridge.messages import Reject, ReplayDone, ReplayRequest
from bci_bridge.places import held_places
from bci_bridge.publisher import Publisher
from bci_bridge.settings import ServeConfig
from bci_bridge.tokens import OUT_NS
from bci_bridge.wire import decode, encode
from tests.integration.lines import dealer

RATE, BURST = 2, 3
SECOND_NS = 1_000_000_000


class Asked:
    """A publisher, a peer that asks it, and the clock."""

    def __init__(self, stack):
        self.now_ns = 10 * SECOND_NS
        places = stack.enter_context(held_places(None))
        config = ServeConfig(rate_per_s=RATE, burst=BURST)
        self.publisher = Publisher(config, places, lambda: self.now_ns, stack)
        self._peer = stack.enter_context(dealer(self.publisher.outlet.replay))
        self.heard = []

    def ask(self, times):
        """Ask so often, and have all of it read."""
        before = self._read()
        for _ in range(times):
            question = ReplayRequest(run="run-1", from_index=0)
            self._peer.send_multipart(encode(question).frames)
        for _ in range(2000):
            self.publisher.turn()
            if self._peer.poll(5):
                self.heard.append(decode(self._peer.recv_multipart()).record)
            if self._read() == before + times and not self._peer.poll(50):
                return
        pytest.fail(f"expected {times} questions read, found {self._read() - before}")

    def _read(self):
        answered = [one for one in self.heard if isinstance(one, ReplayDone)]
        return len(answered) + sum(self.publisher.report().rejected.values())


@pytest.fixture
def asked():
    with contextlib.ExitStack() as stack:
        yield Asked(stack)


def test_questions_beyond_burst_and_rate_are_refused_once_and_then_in_silence(asked):
    asked.ask(BURST + 2)
    asked.now_ns += SECOND_NS
    asked.ask(RATE)

    refusal = asked.heard.pop(BURST)
    assert isinstance(refusal, Reject)
    assert (refusal.reason, refusal.detail) == (
        "RATE",
        "expected fewer messages a second, found a flood",
    )
    assert [type(one) for one in asked.heard] == [ReplayDone] * (BURST + RATE)
    assert asked.publisher.report().rejected == {"RATE": 2}


def test_who_goes_on_is_not_heard_for_a_while_and_then_again(asked):
    asked.ask(BURST + RATE + 1)
    asked.now_ns += OUT_NS - 1
    asked.ask(1)
    assert len([one for one in asked.heard if isinstance(one, ReplayDone)]) == BURST

    asked.now_ns += SECOND_NS
    asked.ask(1)
    assert isinstance(asked.heard[-1], ReplayDone)
