"""The fuzz's messages over a real socket, while a legitimate sender plays a run."""

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
from bci_bridge.wire import OUTCOME_HEADER_BYTES, decode, encode
from runtime.errors import NeuroFlowError, PeerError
from tests.faults.mutate import Mutator
from tests.faults.recordings import scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Progress, Settings
from tests.faults.rig import start_server
from tests.integration.tiny import SHAPE

RUN = "legitimate"
PAUSE_S = 0.02
"""Between two volumes; fifty a second is far beyond any scanner."""

PATIENCE_S = 5.0
WITH_THE_DEAD_S = 1.0
"""Patience with a server that is broken on purpose: it dies of its first bad header,
and each who speaks to it waits in vain."""

HEAR_OUT_S = 60.0
"""A busy machine answers thousands of messages late; it must answer them."""

ANSWERS = frozenset({"REJECT", "WELCOME", "ACK"})
"""What a stranger may hear: no, or the courtesies of a valid HELLO or HEARTBEAT."""


@dataclass
class Played:
    """What the legitimate sender did."""

    volumes: int = 0
    troubles: list[str] = field(default_factory=list)


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
        rig = start_server(folder, is_broken=settings.sabotage)
        begun = threading.Event()
        thread = threading.Thread(
            target=_play, args=(rig.address, played, begun, is_over), name="legitimate"
        )
        thread.start()
        begun.wait(PATIENCE_S)
        begin = time.monotonic()
        heard = _fuzz(rig.address, settings.seed, count, patience_s)
        fuzz_s = time.monotonic() - begin
        is_over.set()
        thread.join(4 * patience_s)
        found = [] if played.troubles else _outcomes(rig.address, played, patience_s)
        stopped = rig.stop()
    if stopped.failure:
        played.troubles.append(f"server: {stopped.failure}")
    wanted = [(index, "OK", f"{index}") for index in range(played.volumes)]
    right = sum(
        (o.volume_index, o.input, o.label) == expected
        for o, expected in zip(found, wanted, strict=False)
    )
    late_ms = [(o.decided_ns - (o.acquired_ns or 0)) / 1e6 for o in found]
    rejected = {} if stopped.report is None else stopped.report.rejected
    return Finding(
        {
            "messages": heard.sent if heard.is_out else 0,
            "messages_per_s": round(heard.sent / fuzz_s),
            "legitimate_volumes": played.volumes,
            "legitimate_lost": played.volumes - right,
            "outcomes_beyond": max(len(found) - played.volumes, 0),
            "worst_answer_ms": round(max(late_ms, default=0.0), 1),
            "troubles": len(played.troubles),
            "rejected_by_server": sum(rejected.values()),
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
            "rejected_by_server": Bound(at_least=count // 2),
            "answers_no_message": NONE,
            "answers_of_other_kinds": NONE,
        },
        played.troubles,
    )


def _play(
    address: str, played: Played, begun: threading.Event, is_over: threading.Event
) -> None:
    start = RunStart(
        run=RUN, shape=SHAPE, tr_s=1.0, expected_volumes=30_000, budget_s=60.0,
        pace="catchup",
    )  # fmt: skip
    try:
        with Sender(address, start, timeout_s=PATIENCE_S) as sender:
            begun.set()
            while not is_over.is_set() or played.volumes < 10:
                volume = np.full(SHAPE, played.volumes, np.int16)
                sender.volume(played.volumes, volume, time.monotonic_ns())
                played.volumes += 1
                sender.pump()
                is_over.wait(PAUSE_S)
            played.troubles += [f"refused: {one.reason}" for one in sender.refusals]
    except NeuroFlowError as error:
        played.troubles.append(f"sender: {error}")
    finally:
        begun.set()


def _outcomes(address: str, played: Played, patience_s: float) -> list[VolumeOutcome]:
    try:
        every = list(Client(address, run=RUN, timeout_s=patience_s))
    except ClientError as error:
        played.troubles.append(f"client: {error}")
        return []
    return [outcome for outcome in every if isinstance(outcome, VolumeOutcome)]


def _fuzz(address: str, seed: int, count: int, patience_s: float) -> Heard:
    heard = Heard()
    # Another run and stream: who may join the run is for keys to say, not for this.
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
                socket.send_multipart(source.draw() or [b""])
                heard.sent += 1
                _hear(socket, heard)
                progress.at(number)
            _hear_out(socket, heard)
    return heard


def _hear_out(socket: "zmq.Socket[bytes]", heard: Heard) -> None:
    """Ask a last thing, which is refused by name, and hear all until it is."""
    last = encode(Hello(stream="last-word", role="observer", versions=(99,)))
    until = time.monotonic() + HEAR_OUT_S
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
