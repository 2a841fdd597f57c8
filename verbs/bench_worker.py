"""A process that a benchmark measures; started by `neuroflow bench`, not by users."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from runtime.bench.limits import (
    Memory,
    Product,
    best,
    block_products,
    flop,
    numpy_products,
    openvino_products,
)
from runtime.bench.machine import memory_field
from runtime.bundle import open_bundle
from runtime.engine import Precision
from runtime.engines.cache import CacheCounts, EngineCache
from runtime.errors import BackendError, NeuroFlowError
from runtime.graphs import SERVED
from runtime.model import SAMPLES, open_model
from runtime.timing import back_to_back, paced
from verbs.bench_engines import Call, Stages, open_stages
from verbs.bench_orders import Job, Order, Reply

STATUS = Path("/proc/self/status")
NOMINAL = (256, 1664)
"""Tokens and width of the products where a bundle's sizes are not known."""


def main() -> int:
    """Read a job, then orders, each a line of JSON; answer each with one."""
    # Libraries print; what they print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines = sys.stdin.buffer
    try:
        job = msgspec.json.decode(lines.readline(), type=Job)
        with ExitStack() as stack:
            for reply in _replies(job, lines, stack):
                _say(answers, reply)
    except NeuroFlowError as error:
        _say(answers, Reply(failure=str(error)))
    except KeyboardInterrupt:
        return 1
    return 0


def _say(answers: BinaryIO, reply: Reply) -> None:
    answers.write(msgspec.json.encode(reply) + b"\n")
    answers.flush()


def _orders(lines: BinaryIO) -> Iterator[Order]:
    for line in iter(lines.readline, b""):
        yield msgspec.json.decode(line, type=Order)


def _replies(job: Job, lines: BinaryIO, stack: ExitStack) -> Iterator[Reply]:
    cache = None if job.cache is None else Path(job.cache)
    is_drawn = job.weights is not None
    bundle = stack.enter_context(
        open_bundle(Path(job.bundle), cache, is_drawn=is_drawn)
    )
    if job.kind == "serve":
        said: list[str] = []
        engines = None
        if job.engines is not None:
            engines = EngineCache(Path(job.engines), said.append)
        model = stack.enter_context(
            open_model(
                bundle,
                job.who.peer,
                precision=_precision(job),
                threads=job.who.threads,
                cache=engines,
                samples=SAMPLES,
                parts=SERVED,
            )
        )
        model.decode_latent(model.encode_voxels(bundle.golden()["voxels"][0]))
        now = time.monotonic_ns()
        counts = CacheCounts() if engines is None else engines.counts
        yield Reply(
            now_ns=now,
            resident_bytes=_own("VmRSS"),
            peak_bytes=_own("VmHWM"),
            engines_loaded=counts.loaded,
            engines_built=counts.built,
            cache_said=said[-1] if said else "",
        )
        return
    if job.kind == "limits":
        yield from _limits(job, lines, stack)
        return
    if job.who.peer.startswith("torch"):
        from verbs.bench_torch import open_torch

        stages = open_torch(bundle, job)
    else:
        stages = open_stages(bundle, job)
    stack.callback(stages.close)
    components = len(bundle.feature_space().whitening.components)
    yield Reply(stages=tuple(stages.calls), components=components)
    for order in _orders(lines):
        yield _measured(stages, order)


def _precision(job: Job) -> Precision:
    found: Precision = msgspec.convert(job.who.precision, Precision)
    return found


def _measured(stages: Stages, order: Order) -> Reply:
    if order.stage == "flow":
        call = stages.flow(order.evaluations)
    else:
        call = stages.calls[order.stage]
    prepare = stages.before.get(order.stage)
    before = time.process_time_ns()
    if order.period_ns is None:
        samples = back_to_back(call, order.count, time.monotonic_ns, prepare)
        # Of what lies between the calls it cannot be told apart.
        cpu_ns = 0 if prepare else time.process_time_ns() - before
        return Reply(samples_ns=tuple(samples), cpu_ns=cpu_ns)
    found = paced(
        call,
        order.count,
        period_ns=order.period_ns,
        deadline_ns=order.period_ns,
        clock=time.monotonic_ns,
        wait_until=_wait_until,
    )
    return Reply(paced=found, cpu_ns=time.process_time_ns() - before)


def _wait_until(instant_ns: int) -> None:
    # Asleep, not spinning: a server waits for a socket, and waking up is part of it.
    while (rest := instant_ns - time.monotonic_ns()) > 0:
        time.sleep(rest / 1e9)


def _limits(job: Job, lines: BinaryIO, stack: ExitStack) -> Iterator[Reply]:
    m, d = NOMINAL
    products: tuple[Product, ...] = ((m, d, 3 * d), (m, d, d), (m, d, 4 * d))
    if job.sizes is not None:
        products = block_products(job.sizes)
    ways: dict[str, Call] = {}
    if job.who.precision == "f32":
        ways["numpy"] = numpy_products(products)
    try:
        for name in ("openvino", "openvino convolutions"):
            ways[name] = openvino_products(
                products,
                precision=job.who.precision,
                threads=job.who.threads,
                are_convolutions=name != "openvino",
            )
    except BackendError:
        # Not installed: a limit of numpy alone is still one that was reached.
        if not ways:
            raise
    memory = Memory(job.who.threads)
    stack.callback(memory.close)
    for call in ways.values():
        call()
    memory.bandwidth(time.monotonic_ns)
    yield Reply()
    for order in _orders(lines):
        repeated = {name: _several(call, order.count) for name, call in ways.items()}
        amount = float(flop(products)) * order.count
        yield Reply(
            flop=best(repeated, amount, time.monotonic_ns),
            memory=memory.bandwidth(time.monotonic_ns),
        )


def _several(call: Call, count: int) -> Call:
    def repeated() -> None:
        for _ in range(count):
            call()

    return repeated


def _own(name: str) -> int:
    if not STATUS.exists():
        return 0
    return memory_field(STATUS.read_text("ascii", "replace"), name) or 0


if __name__ == "__main__":
    sys.exit(main())
