"""Mutated messages and random bytes through `wire.decode` and `Protocol.receive`."""

import gc
import multiprocessing
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, get_args

from bci_bridge import wire
from bci_bridge.header import RejectReason
from bci_bridge.messages import Header, Hello, Reject, RunStart
from bci_bridge.protocol import Protocol
from bci_bridge.wire import Envelope, decode, encode
from runtime.errors import PeerError
from tests.faults.mutate import Mutator, deaf_to_utf8
from tests.faults.result import (
    NONE,
    Bound,
    Fault,
    Finding,
    Progress,
    Settings,
    resident_mib,
)

REASONS = frozenset(get_args(RejectReason))
PEERS = (b"scanner", b"stimulus", b"operator", b"unknown", b"")
FRESH_AFTER = 200
"""Messages after which the protocol is a new one, so that no state is the last."""

STEPS_NS = (0, 1_000_000, 1_000_000, 50_000_000)
MAX_VIOLATIONS = 50
"""A broken build is known for one long before the last try."""


@dataclass
class Tally:
    """What became of the messages of one process."""

    messages: int = 0
    decoded: int = 0
    accepted: int = 0
    other_exceptions: int = 0
    unknown_reasons: int = 0
    changed_by_refusal: int = 0
    largest_answer: int = 0
    """Actions that one message led to."""
    growth_mib: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return self.other_exceptions + self.unknown_reasons + self.changed_by_refusal


def fresh_protocol(now_ns: int) -> Protocol:
    """A protocol in the middle of a run, with a peer of every role but observer."""
    protocol = Protocol(publish="tcp://127.0.0.1:1", replay="tcp://127.0.0.1:2")
    roles: dict[bytes, Any] = {p: p.decode() for p in PEERS[:3]}
    for peer, role in roles.items():
        # All say stream s... of their own, which the generator's messages name too.
        hello = Hello(role=role, stream="s" if role == "scanner" else role)
        protocol.receive(peer, encode(hello), now_ns)
    start = RunStart(
        run="run-1", stream="s", shape=(3, 4, 2), tr_s=1, expected_volumes=400,
        budget_s=1,
    )  # fmt: skip
    protocol.receive(b"scanner", encode(start), now_ns)
    return protocol


def fuzz(seed: int, count: int, *, is_broken: bool, tell: bool = False) -> Tally:
    """Feed `count` messages to a chain of protocols; stop early where all is broken."""
    tally = Tally()
    source = Mutator(seed)
    progress = Progress(f"fuzz seed {seed}", count)
    warm_after, warm_mib = max(count // 10, 1), 0.0
    protocol, now_ns = fresh_protocol(0), 0
    standing = _standing(protocol)
    with ExitStack() as stack:
        if is_broken:
            stack.enter_context(deaf_to_utf8())
        for number in range(count):
            if number % FRESH_AFTER == 0:
                protocol = fresh_protocol(now_ns)
                standing = _standing(protocol)
            if number == warm_after:
                gc.collect()
                warm_mib = resident_mib()
            now_ns += source.dice.choice(STEPS_NS)
            peer = source.dice.choice(PEERS)
            source.aim = _aim(protocol, peer)
            standing = _one(tally, protocol, peer, source.draw(), now_ns, standing)
            if tally.violations >= MAX_VIOLATIONS:
                break
            if tell:
                progress.at(number)
    gc.collect()
    tally.growth_mib = round(resident_mib() - warm_mib, 2) if warm_mib else 0.0
    return tally


def _one(
    tally: Tally,
    protocol: Protocol,
    peer: bytes,
    frames: list[bytes],
    now_ns: int,
    before: "_Standing",
) -> "_Standing":
    """Feed one message; return how the protocol stands after it."""
    tally.messages += 1
    envelope: Envelope | None = None
    try:
        envelope = decode(frames)
        tally.decoded += 1
        actions = protocol.receive(peer, envelope, now_ns)
        protocol.deadline_ns()
        actions += protocol.tick(now_ns)
    except PeerError as error:
        tally.reasons[error.reason] += 1
        if error.reason not in REASONS:
            tally.unknown_reasons += 1
            tally.examples.append(f"reason {error.reason} for {_shown(frames)}")
        after = _standing(protocol)
        if after != before:
            tally.changed_by_refusal += 1
            tally.examples.append(f"{error} changed the state: {_shown(frames)}")
        _answer(envelope, error)
        return after
    except Exception as error:
        tally.other_exceptions += 1
        tally.examples.append(f"{type(error).__name__}: {error} for {_shown(frames)}")
    else:
        tally.accepted += 1
        tally.largest_answer = max(tally.largest_answer, len(actions))
    return _standing(protocol)


def _aim(protocol: Protocol, peer: bytes) -> dict[str, Any]:
    for one in protocol.standings():
        if one.peer == peer:
            return {"run": one.run, "stream": one.stream, "sequence": one.received}
    return {}


_Standing = tuple[object, ...]
"""What a refusal must leave as it is."""


def _standing(protocol: Protocol) -> _Standing:
    state = protocol.state, protocol.run_id, protocol.next_index
    return (*state, protocol.standings(), protocol.deadline_ns())


def _answer(envelope: Envelope | None, error: PeerError) -> None:
    """Say no as a server does; the answer itself must be a message."""
    heard = Header() if envelope is None else envelope.record
    if error.reason in REASONS:
        reject = Reject(
            run=heard.run,
            stream=heard.stream,
            sequence=heard.sequence,
            reason=error.reason,  # type: ignore[arg-type]
            detail=error.detail[:512],
        )
        decode(encode(reject).frames, header_bytes=wire.OUTCOME_HEADER_BYTES)


def _shown(frames: list[bytes]) -> str:
    parts = [frame[:200].hex() for frame in frames[:3]]
    return f"{len(frames)} frames {' '.join(parts)}"


def run(settings: Settings) -> Finding:
    """Fuzz in this process, or in the long form in two."""
    count = settings.tries(short=200_000, full=100_000_000)
    if settings.form == "short":
        tallies = [fuzz(settings.seed, count, is_broken=settings.sabotage)]
    else:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            jobs = [
                pool.apply_async(
                    fuzz,
                    (settings.seed * 2 + part, count // 2),
                    {"is_broken": settings.sabotage, "tell": part == 0},
                )
                for part in range(2)
            ]
            tallies = [job.get() for job in jobs]
    return _finding(tallies, count)


def _finding(tallies: list[Tally], count: int) -> Finding:
    reasons = sum((tally.reasons for tally in tallies), Counter[str]())
    return Finding(
        {
            "messages": sum(tally.messages for tally in tallies),
            "decoded": sum(tally.decoded for tally in tallies),
            "accepted": sum(tally.accepted for tally in tallies),
            "refused": reasons.total(),
            "reasons_seen": len(reasons),
            "other_exceptions": sum(tally.other_exceptions for tally in tallies),
            "unknown_reasons": sum(tally.unknown_reasons for tally in tallies),
            "changed_by_refusal": sum(tally.changed_by_refusal for tally in tallies),
            "largest_answer": max(tally.largest_answer for tally in tallies),
            "growth_mib": max(tally.growth_mib for tally in tallies),
            **{f"refused_{reason}": reasons[reason] for reason in sorted(reasons)},
        },
        {
            "messages": Bound(at_least=count // len(tallies) * len(tallies)),
            # Behind the CRC, where the checks of the protocol are.
            "decoded": Bound(at_least=count // 20),
            "accepted": Bound(at_least=1),
            "reasons_seen": Bound(at_least=10),
            "other_exceptions": NONE,
            "unknown_reasons": NONE,
            "changed_by_refusal": NONE,
            "growth_mib": Bound(at_most=8),
        },
        [example for tally in tallies for example in tally.examples],
    )


FAULT = Fault("fuzz", "mutated messages and random bytes meet wire and protocol", run)
