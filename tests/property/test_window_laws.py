"""Laws of the window: any conversation, lost words included, delivers all in order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bci_bridge.messages import Ack, Heartbeat
from bci_bridge.window import WINDOW, Window
from bci_bridge.wire import encode


class Conversation(RuleBasedStateMachine):
    """A window, a line that loses, and a server that loses what is not durable."""

    def __init__(self):
        super().__init__()
        self.window = Window()
        self.spooled = set()
        self.line = []
        self.received = self.durable = self.pushed = 0
        self.answers = []

    @rule(count=st.integers(1, 40), is_spooled=st.booleans())
    def push(self, count, is_spooled):
        for _ in range(count):
            if is_spooled:
                self.spooled.add(self.pushed)
            envelope = encode(Heartbeat(sequence=self.pushed))
            self.window.push(envelope, is_spooled=is_spooled)
            self.pushed += 1

    @rule(loses=st.lists(st.booleans(), min_size=WINDOW, max_size=WINDOW))
    def transmit(self, loses):
        due = self.window.due()
        assert len(due) <= WINDOW
        for sequence, is_lost in zip(due, loses, strict=False):
            kept = self.window.kept(sequence)
            assert kept is not None or sequence in self.spooled
            assert kept is None or kept.record.sequence == sequence
            if not is_lost:
                self.line.append(sequence)
        self.window.sent_up_to(due.stop)

    @rule()
    def arrive(self):
        for sequence in self.line:
            assert sequence < self.received + WINDOW, "more is under way than allowed"
            if sequence == self.received:
                self.received += 1
        self.line.clear()

    @rule(share=st.floats(0, 1))
    def sync(self, share):
        self.durable += round((self.received - self.durable) * share)

    @rule(is_lost=st.booleans())
    def acknowledge(self, is_lost):
        if not is_lost:
            self.window.acknowledge(Ack(received=self.received, durable=self.durable))

    @rule()
    def resend(self):
        self.window.go_back()

    @rule()
    def cut_power(self):
        # What was under way is gone with the connection.
        self.line.clear()
        self.received = self.durable
        assert self.window.resume(self.received), "what is not durable is held"

    @invariant()
    def the_order_holds(self):
        window = self.window
        assert window.first <= window.received <= window.sent <= window.next
        assert window.sent - window.received <= WINDOW
        assert window.next == self.pushed
        assert window.first <= self.durable

    def teardown(self):
        for _ in range(self.pushed // WINDOW + 2):
            self.resend()
            self.transmit([False] * WINDOW)
            self.arrive()
            self.sync(1.0)
            self.acknowledge(is_lost=False)
        assert self.received == self.pushed, "a quiet line delivers what is left"
        assert self.window.is_settled


Conversation.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestConversation = Conversation.TestCase
