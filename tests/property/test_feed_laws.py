"""Whatever a source yields, the server's state machine accepts what is said of it."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bci_bridge.actions import Refuse
from bci_bridge.messages import Hello, Missing, RunEnd, Volume
from bci_bridge.protocol import Protocol
from bci_bridge.sources.feed import Feed
from bci_bridge.sources.source import Exhausted, Refused, SeriesEnded
from bci_bridge.sources.speech import Begin, End, SayMissing, SayVolume
from bci_bridge.wire import encode
from tests.scanned import SECOND, plan, scanned

SERIES = st.sampled_from(["a", "b", "c", ""])
VOLUMES = st.builds(
    scanned,
    st.integers(0, 14),
    SERIES,
    tr_s=st.sampled_from([1.0, 1.0, 1.0, 1.0, 2.0]),
)
ARRIVALS = st.lists(
    st.tuples(
        st.one_of(
            VOLUMES,
            VOLUMES,
            st.builds(SeriesEnded, SERIES, st.booleans()),
            st.builds(Refused, st.just("file"), st.just("why")),
            st.just(Exhausted()),
        ),
        st.sampled_from([0.0, 0.1, 0.6, 1.0, 9.0]),
    ),
    max_size=40,
)


class Server:
    """The state machine, as one scanner's stream meets it."""

    def __init__(self):
        self.protocol, self.now_ns, self.sequence = Protocol(), 0, 0
        self.run = ""
        self.receive(Hello(stream="scanner", role="scanner"))

    def receive(self, record, payload=b""):
        filled = structs.replace(record, stream="scanner")
        found = self.protocol.receive(b"id", encode(filled, payload), self.now_ns)
        assert not any(isinstance(action, Refuse) for action in found)

    def say(self, record, payload=b""):
        filled = structs.replace(record, run=self.run, sequence=self.sequence)
        self.receive(filled, payload)
        self.sequence += 1

    def do(self, actions):
        for action in actions:
            match action:
                case Begin(start=start):
                    assert self.protocol.state != "RUNNING"
                    self.run, self.sequence = start.run, 0
                    self.say(start)
                case SayVolume(index=index, voxels=voxels, acquired_ns=acquired_ns):
                    volume = Volume(
                        volume_index=index,
                        acquired_ns=acquired_ns,
                        dtype="i2",
                        shape=voxels.shape,
                    )
                    self.say(volume, voxels.tobytes())
                case SayMissing(index=index):
                    self.say(Missing(volume_index=index))
                case End(count=count, is_aborted=is_aborted):
                    self.say(RunEnd(count=count, aborted=is_aborted))


@given(ARRIVALS, st.integers(0, 4), st.integers(0, 3), st.integers(1, 12))
def test_the_server_takes_whatever_is_said(arrivals, reorder, discard, volumes):
    feed = Feed(
        plan(
            reorder=reorder,
            discard=discard,
            volumes=volumes,
            runs=3,
            quiet_s=5.0,
            pace="catchup",
        )
    )
    server = Server()
    for arrival, pause_s in arrivals:
        server.now_ns += round(pause_s * SECOND)
        server.do(feed.take(arrival, server.now_ns))
        server.do(feed.tick(server.now_ns))
        assert feed.is_running == (server.protocol.state == "RUNNING")
    server.do(feed.stop("the end", server.now_ns))

    assert server.protocol.state != "RUNNING"
    assert feed.past.series is None
