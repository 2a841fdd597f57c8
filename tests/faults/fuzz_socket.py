"""The fuzz's messages over a real socket, while a legitimate sender plays runs.

A supervised server of four processes. After a warm-up, a fifth of the messages, the own
memory of each may rise by 8 MiB at most until the last message is answered. The
sender's runs are short, because a publisher keeps the outcomes of two runs: what grows
is then not of its making.
"""

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import zmq
from neuroflow_client import Client, ClientError, VolumeOutcome

from bci_bridge.messages import Hello, RunStart, kind_of
from bci_bridge.sender import Sender
from bci_bridge.settings import INGRESS, PUBLISHER, WORKERS, ServeConfig
from bci_bridge.wire import OUTCOME_HEADER_BYTES, decode, encode
from runtime.errors import NeuroFlowError, PeerError
from tests.faults.mutate import Mutator
from tests.faults.recordings import scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Progress, Settings
from tests.faults.supervised import Supervised
from tests.integration.tiny import SHAPE

RUN_VOLUMES = 200
PAUSE_S = 0.02
"""Between two volumes; fifty a second is far beyond any scanner."""

PATIENCE_S = 5.0
WITH_THE_DEAD_S = 1.0
"""Patience with a server that is broken on purpose: it dies of bad headers, and each
who speaks to it waits in vain."""

PROCESSES = ("supervisor", INGRESS, PUBLISHER, *WORKERS)
GROWTH_MIB = 8
WARM_UP, LOOKS = 5, 100
"""One in so many messages is of the warm-up; memory is looked at so often after it."""

HEAR_OUT_S = 60.0
"""A busy machine answers thousands of messages late; it must answer them."""

ANSWERS = frozenset({"REJECT", "WELCOME", "ACK"})
"""What a stranger may hear: no, or the courtesies of a valid HELLO or HEARTBEAT."""


@dataclass
class Played:
    """What the legitimate sender did, and what was answered."""

    runs: int = 0
    volumes: int = 0
    right: int = 0
    beyond: int = 0
    """Outcomes of volumes that it did not send."""
    late_ms: list[float] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def take(self, sent: int, found: list[VolumeOutcome]) -> None:
        """Hold a run's outcomes against what was sent."""
        wanted = [(index, "OK", f"{index}") for index in range(sent)]
        self.right += sum(
            (o.volume_index, o.input, o.label) == expected
            for o, expected in zip(found, wanted, strict=False)
        )
        self.beyond += max(len(found) - sent, 0)
        self.late_ms += [(o.decided_ns - (o.acquired_ns or 0)) / 1e6 for o in found]


class Scales:
    """What the server's processes hold, from the end of the warm-up on.

    Attributes:
        grown_kib: By name of the process, how far it rose above that at most. Who takes
            a dead one's place is not weighed; deaths are counted.
    """

    def __init__(self, server: Supervised) -> None:
        self.grown_kib: dict[str, float] = {}
        self._server, self._begin = server, dict[str, float]()

    def look(self) -> None:
        """Weigh all of them; the first time is what the others are held against."""
        held = self._server.own_kib()
        self._begin = self._begin or held
        for one in held.keys() & self._begin.keys():
            name = one.partition(" ")[0]
            risen = held[one] - self._begin[one]
            self.grown_kib[name] = max(self.grown_kib.get(name, 0.0), risen)


@dataclass
class Heard:
    """What the fuzzing peer said, and heard in return."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    no_message: int = 0
    is_out: bool = False
    """Whether all that was said has been read, because what came after was answered."""


def run(settings: Settings) -> Finding:
    """Start a server, play, fuzz, and hold what was answered against what was sent."""
    count = settings.tries(short=20_000, full=1_000_000)
    played, is_over = Played(), threading.Event()
    patience_s = WITH_THE_DEAD_S if settings.sabotage else PATIENCE_S
    with scratch() as folder:
        # As fast as it goes: how much a peer may say is not what is tried here.
        config = ServeConfig(
            address="tcp://127.0.0.1:*",
            recording=str(folder / "log"),
            rate_per_s=1_000_000,
            burst=1_000_000,
        )
        with Supervised(config, "leaky" if settings.sabotage else "") as server:
            begun = threading.Event()
            thread = threading.Thread(
                target=_play,
                args=(server.address, played, begun, is_over, patience_s),
                name="legitimate",
            )
            thread.start()
            begun.wait(PATIENCE_S)
            begin = time.monotonic()
            scales = Scales(server)
            heard = _fuzz(server.address, settings.seed, count, patience_s, scales)
            fuzz_s = time.monotonic() - begin
            is_over.set()
            thread.join(8 * PATIENCE_S)
            ended = server.stop()
    if ended.failure:
        played.troubles.append(f"server: {ended.failure}")
    rejected = {} if ended.report is None else ended.report.rejected
    growth = {
        f"growth_mib_{name.replace('-', '_')}": round(kib / 1024, 1)
        for name, kib in sorted(scales.grown_kib.items())
    }
    return Finding(
        {
            "messages": heard.sent if heard.is_out else 0,
            "messages_per_s": round(heard.sent / fuzz_s),
            "legitimate_runs": played.runs,
            "legitimate_volumes": played.volumes,
            "legitimate_lost": played.volumes - played.right,
            "outcomes_beyond": played.beyond,
            "worst_answer_ms": round(max(played.late_ms, default=0.0), 1),
            "troubles": len(played.troubles),
            "deaths": sum(ended.restarts.values()),
            "rejected_by_server": sum(rejected.values()),
            **growth,
            "answers": heard.answers.total(),
            "answers_no_message": heard.no_message,
            "answers_of_other_kinds": sum(
                n for kind, n in heard.answers.items() if kind not in ANSWERS
            ),
            **{f"answers_{kind}": n for kind, n in sorted(heard.answers.items())},
        },
        {
            "messages": Bound(at_least=count),
            "legitimate_volumes": Bound(at_least=10),
            "legitimate_lost": NONE,
            "outcomes_beyond": NONE,
            "troubles": NONE,
            "deaths": NONE,
            "rejected_by_server": Bound(at_least=count // 2),
            **{
                f"growth_mib_{name.replace('-', '_')}": Bound(at_most=GROWTH_MIB)
                for name in PROCESSES
            },
            "answers_no_message": NONE,
            "answers_of_other_kinds": NONE,
        },
        played.troubles,
    )


def _play(
    address: str,
    played: Played,
    begun: threading.Event,
    is_over: threading.Event,
    patience_s: float,
) -> None:
    try:
        while not is_over.is_set() or played.volumes < 10:
            run = f"legitimate-{played.runs}"
            sent = _play_run(address, run, played, begun, is_over, patience_s)
            played.runs += 1
            played.take(sent, _outcomes(address, run, patience_s))
    except (NeuroFlowError, ClientError) as error:
        played.troubles.append(f"{type(error).__name__}: {error}")
    finally:
        begun.set()


def _start(run: str) -> RunStart:
    return RunStart(
        run=run, shape=SHAPE, tr_s=1.0, expected_volumes=RUN_VOLUMES, budget_s=60.0,
        pace="catchup",
    )  # fmt: skip


def _play_run(
    address: str,
    run: str,
    played: Played,
    begun: threading.Event,
    is_over: threading.Event,
    patience_s: float,
) -> int:
    sent = 0
    outage_s = 4 * patience_s
    with Sender(
        address, _start(run), timeout_s=PATIENCE_S, outage_s=outage_s
    ) as sender:
        begun.set()
        while sent < RUN_VOLUMES and (not is_over.is_set() or sent < 10):
            volume = np.full(SHAPE, sent, np.int16)
            sender.volume(sent, volume, time.monotonic_ns())
            sent += 1
            played.volumes += 1
            sender.pump()
            is_over.wait(PAUSE_S)
        played.troubles += [f"refused: {one.reason}" for one in sender.refusals]
    return sent


def _outcomes(address: str, run: str, patience_s: float) -> list[VolumeOutcome]:
    every = Client(address, run=run, timeout_s=patience_s)
    return [outcome for outcome in every if isinstance(outcome, VolumeOutcome)]


def _fuzz(
    address: str, seed: int, count: int, patience_s: float, scales: Scales
) -> Heard:
    heard = Heard()
    warm, every = count // WARM_UP, max(count // LOOKS, 1)
    # Another run and stream, and none of its own: who may join a run, or begin one in
    # the pause between two, is for keys to say, not for this.
    source = Mutator(seed, run="strange", stream="strange")
    progress = Progress("fuzz-socket", count)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 64)
        socket.setsockopt(zmq.SNDTIMEO, round(patience_s * 1000))
        socket.connect(address)
        with contextlib.suppress(zmq.Again):  # a server that is gone is found out above
            for number in range(count):
                source.aim = {
                    "run": "strange", "stream": "strange",
                    "sequence": source.dice.randrange(3),
                }  # fmt: skip
                while _begins_a_run(frames := source.draw()):
                    pass
                socket.send_multipart(frames or [b""])
                heard.sent += 1
                _hear(socket, heard)
                progress.at(number)
                if number >= warm and (number - warm) % every == 0:
                    scales.look()
            # Whom the dead do not answer, they never will.
            _hear_out(socket, heard, min(HEAR_OUT_S, 12 * patience_s))
            scales.look()
    return heard


def _begins_a_run(frames: list[bytes]) -> bool:
    try:
        record = decode(frames).record
    except PeerError:
        return False
    return isinstance(record, RunStart) and record.sequence == 0


def _hear_out(socket: "zmq.Socket[bytes]", heard: Heard, within_s: float) -> None:
    """Ask a last thing, which is refused by name, and hear all until it is."""
    last = encode(Hello(stream="last-word", role="observer", versions=(99,)))
    until = time.monotonic() + within_s
    while not heard.is_out and time.monotonic() < until:
        socket.send_multipart(last.frames)
        if socket.poll(500):
            _hear(socket, heard)


def _hear(socket: "zmq.Socket[bytes]", heard: Heard) -> None:
    while socket.poll(0):
        try:
            answer = decode(
                socket.recv_multipart(), header_bytes=OUTCOME_HEADER_BYTES
            ).record
        except PeerError:
            heard.no_message += 1
        else:
            heard.answers[kind_of(answer)] += 1
            heard.is_out = heard.is_out or answer.stream == "last-word"


FAULT = Fault(
    "fuzz-socket", "the same messages meet a real server, beside a run that plays", run
)
