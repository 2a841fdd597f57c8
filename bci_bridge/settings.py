"""What a server is told, and what it tells: plain values."""

from collections import Counter
from typing import Annotated, Final

import msgspec

from bci_bridge.histogram import Histogram
from bci_bridge.tally import Counts

INGRESS: Final = "ingress"
PUBLISHER: Final = "publisher"
WORKERS: Final = ("worker-a", "worker-b")
"""Names of the processes of a server; either worker answers, the other stands by."""
POLL_MS: Final = 100
"""Longest sleep of a process: bounds how late a wish to stop is noticed."""

MOST_MB: Final = 1 << 24
"""Of memory, in MiB: 16 TiB, which no limit of the kernel's overflows."""


class ServeConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Where to listen and what to keep."""

    address: str = "tcp://127.0.0.1:5760"
    """Where scanner, stimulus software and clients connect; port * picks a free one."""
    publish: str = "tcp://127.0.0.1:*"
    """Where outcomes are announced; clients learn it from the server."""
    replay: str = "tcp://127.0.0.1:*"
    """Where outcomes can be asked for again; clients learn it from the server."""
    keys: str | None = None
    """Folder of keys; with it every socket asks for one (docs/security.md)."""
    recording: str | None = None
    """Folder for the log; without it nothing is durable."""
    memory_mb: Annotated[int, msgspec.Meta(ge=512, le=MOST_MB)] = 4096
    """Address space of each process that meets peers; what bursts it is restarted."""
    worker_memory_mb: Annotated[int, msgspec.Meta(ge=1, le=MOST_MB)] | None = None
    """Resident memory of each worker; who is beyond it is ended while the other can
    answer. None for no limit: what an engine needs is the bundle's to say."""
    hang_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """A process that shows no sign of life for this long is replaced."""
    load_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    """A worker that has shown none since it was started may be loading for this long;
    an engine that must be built first can take minutes."""
    input_queue: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    """Messages per peer that wait in memory before the peer is held back."""
    health: str | None = None
    """Loopback address HOST:PORT of health and metrics over HTTP; None for none."""
    free_mb: Annotated[int, msgspec.Meta(ge=0)] = 2048
    """Room beneath which the recording's disk makes the server not ready."""
    is_urgent: bool = True
    """Run before all other programs where the system allows it (`urgency`)."""
    clock_ms: Annotated[float, msgspec.Meta(gt=0)] = 50.0
    """A sender less sure of its clock makes the server degraded. A deadline is as
    uncertain as that: at this limit by a tenth of the shortest TR."""
    rate_per_s: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5000
    """Messages that one key, or one peer where there are none, may send each second
    for ever: a rig needs tens, and catching up on loopback reaches about 2,600."""
    burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32_768
    """Messages that it may send beyond that: a run of two hours at a TR of 0.5 s with a
    trigger for each volume (28,800), so that no machine is too fast at catching up."""


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server really listens."""

    address: str
    publish: str
    replay: str
    health: str = ""
    """HOST:PORT; empty where there is none."""


class Outlet(msgspec.Struct, frozen=True, kw_only=True):
    """Where outcomes are to be had."""

    publish: str
    replay: str


class IngressReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came in."""

    runs: int = 0
    rejected: dict[str, int] = {}
    """Refused messages by reason."""
    run: str = ""
    """The current or last run; empty before the first."""
    acquisitions: int = 0
    """Of that run, that came or were given up: each is owed an outcome."""
    is_over: bool = False
    """Its end is logged, and owed an outcome that comes after all others."""
    ack_lag: int | None = None
    """Messages of that run that are acknowledged but not known to be on disk; None
    where nothing is recorded."""
    syncs: Histogram = Histogram()
    """How long the disk of the inputs' log took."""
    uncertainty_ns: dict[str, int] = {}
    """By stream that is connected, how sure its sender is of its clock; of those alone
    that say so."""
    recording: str = "OFF"
    """ON, DEGRADED or OFF."""
    self_attacks: int = 0
    """Attacks of the server on itself that were refused; 0 without keys."""
    accepted: int = 0
    """Handshakes let in; 0 without keys."""
    refused: int = 0

    def after(self, earlier: "IngressReport | None") -> "IngressReport":
        """Add what a process did that this one replaces."""
        if earlier is None:
            return self
        return IngressReport(
            runs=self.runs + earlier.runs,
            rejected=dict(Counter(self.rejected) + Counter(earlier.rejected)),
            run=self.run,
            acquisitions=self.acquisitions,
            is_over=self.is_over,
            ack_lag=self.ack_lag,
            syncs=self.syncs.after(earlier.syncs),
            uncertainty_ns=self.uncertainty_ns,
            # What it lacks since the one before, nobody has put there.
            recording="DEGRADED" if earlier.recording == "DEGRADED" else self.recording,
            self_attacks=self.self_attacks + earlier.self_attacks,
            accepted=self.accepted + earlier.accepted,
            refused=self.refused + earlier.refused,
        )


class PublisherReport(msgspec.Struct, frozen=True, kw_only=True):
    """What went out."""

    counts: Counts = Counts()
    """Outcomes; goes on from process to process by itself."""
    run: str = ""
    """The newest run that has outcomes; empty before the first."""
    answered: int = 0
    """Acquisitions of that run that have their outcome."""
    has_end: bool = False
    """Its end has."""
    handed_out: int = 0
    """Outcomes given out because someone asked: at most so many announcements of which
    a subscriber heard nothing, for it may have come later than they did."""
    rejected: dict[str, int] = {}
    self_attacks: int = 0
    accepted: int = 0
    refused: int = 0

    def after(self, earlier: "PublisherReport | None") -> "PublisherReport":
        """Add what a process did that this one replaces."""
        if earlier is None:
            return self
        return PublisherReport(
            counts=self.counts,
            run=self.run,
            answered=self.answered,
            has_end=self.has_end,
            handed_out=self.handed_out + earlier.handed_out,
            rejected=dict(Counter(self.rejected) + Counter(earlier.rejected)),
            self_attacks=self.self_attacks + earlier.self_attacks,
            accepted=self.accepted + earlier.accepted,
            refused=self.refused + earlier.refused,
        )


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker wrote."""

    syncs: Histogram = Histogram()
    """How long the disk of the outcomes' log took while this worker answered."""

    def after(self, earlier: "WorkerReport | None") -> "WorkerReport":
        """Add what a process did that this one replaces."""
        if earlier is None:
            return self
        return WorkerReport(syncs=self.syncs.after(earlier.syncs))


class ServeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a server did in its life."""

    runs: int
    outcomes: dict[str, int]
    """By kind."""
    rejected: dict[str, int]
    """Refused messages by reason."""
    recording: str
    """ON, DEGRADED or OFF."""
    self_attacks: int = 0
    """Attacks of the server on itself that were refused; 0 without keys."""
    unanswered: int = 0
    """Acquisitions of the last run that have no outcome."""
    lacks_end: bool = False
    """The last run is over and its end has none: a trial's may be lacking as well."""
    gaps: dict[str, int] = {}
    """Acquisitions without volume, by reason."""
    unused: dict[str, int] = {}
    """Acquisitions that are MISSING or INVALID, by which."""


def unanswered(came: IngressReport, went: PublisherReport) -> int:
    """Return how many acquisitions of the current run are owed an outcome.

    The two accounts are not of one instant: an answer may be in the later one.
    """
    return max(came.acquisitions - (went.answered if came.run == went.run else 0), 0)


def report_from(came: IngressReport, went: PublisherReport) -> ServeReport:
    """Put the accounts of two processes together."""
    return ServeReport(
        runs=came.runs,
        outcomes=went.counts.by_kind(),
        rejected=dict(Counter(came.rejected) + Counter(went.rejected)),
        recording=came.recording,
        self_attacks=came.self_attacks + went.self_attacks,
        unanswered=unanswered(came, went),
        lacks_end=came.is_over and not (went.has_end and came.run == went.run),
        gaps=went.counts.gaps,
        unused=went.counts.unused(),
    )
