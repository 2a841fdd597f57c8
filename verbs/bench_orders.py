"""What a benchmark and the processes that it measures say to each other.

Each engine lives in a process of its own, so that its memory and its threads are its
own and two engines never share a library. The parent lets them take turns.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Literal, final

import msgspec

from runtime.bench.limits import Rate
from runtime.bench.result import Who
from runtime.bench.work import Sizes
from runtime.errors import BackendError
from runtime.timing import Paced

Kind = Literal["stages", "serve", "limits"]


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process measures."""

    kind: Kind
    """``stages``: call by call. ``serve``: open as a server does, answer once.
    ``limits``: the machine's own."""
    who: Who
    bundle: str
    cache: str | None = None
    """Folder of private copies; None copies to a temporary one."""
    engines: str | None = None
    """Folder where compiled engines are kept between starts; None keeps none."""
    weights: str | None = None
    """Folder of a preset's weights, for engines that read those."""
    sizes: Sizes | None = None
    gallery: int = 100


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn."""

    stage: str = ""
    """``flow`` is a flow of as many evaluations as stated."""
    count: int = 1
    evaluations: int = 1
    period_ns: int | None = None
    """At this pace; None: back to back."""


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came of it, or why nothing did."""

    samples_ns: tuple[int, ...] = ()
    cpu_ns: int = 0
    paced: Paced | None = None
    stages: tuple[str, ...] = ()
    """What can be measured here; said once, at the beginning."""
    components: int = 0
    now_ns: int = 0
    """Monotonic clock at the end."""
    resident_bytes: int = 0
    peak_bytes: int = 0
    engines_loaded: int = 0
    """From the cache of compiled engines."""
    engines_built: int = 0
    cache_said: str = ""
    """Why it could not load or keep one, if so."""
    flop: Rate | None = None
    memory: Rate | None = None
    failure: str = ""


def environment(threads: int, known: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which numerical libraries use this many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**known, **dict.fromkeys(names, str(threads))}


@final
class Child:
    """A process that measures, and answers one order at a time."""

    def __init__(self, job: Job) -> None:
        """Start it and wait until it is ready.

        Raises:
            BackendError: It cannot do its job, or died.
        """
        self._job = job
        # Not a pipe: a library that warns a lot would fill it and wait for a reader.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "verbs.bench_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment(job.who.threads, os.environ),
        )
        try:
            self.ready = self._exchange(job)
        except BaseException:
            self.close()
            raise

    def ask(self, order: Order) -> Reply:
        """Let it take a turn.

        Raises:
            BackendError: It failed or died.
        """
        return self._exchange(order)

    def _exchange(self, message: Any) -> Reply:
        out, back = self._process.stdin, self._process.stdout
        data = b""
        if out is not None and back is not None:
            try:
                out.write(msgspec.json.encode(message) + b"\n")
                out.flush()
                data = back.readline()
            except BrokenPipeError:
                data = b""
        if not data:
            raise BackendError(
                f"{self._job.who}: expected an answer, found its process dead"
                f"{self._last_words()}"
            )
        reply = msgspec.json.decode(data, type=Reply)
        if reply.failure:
            raise BackendError(reply.failure)
        return reply

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def terminate(self) -> None:
        """Tell it to end at once, whatever it is doing."""
        self._process.terminate()


@contextmanager
def started(job: Job) -> Iterator[Child]:
    """Start a process and end it with the block; at once where the block fails.

    Raises:
        BackendError: It cannot do its job, or died.
    """
    with closing(Child(job)) as child:
        try:
            yield child
        except BaseException:
            child.terminate()
            raise
