"""`neuroflow bench`: latency per stage and flow step, beside the machine's limits."""

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import final

from msgspec.structs import replace

from bci_bridge.printable import printable
from runtime.bench.compare import Comparison, compare
from runtime.bench.machine import steal_share
from runtime.bench.result import (
    Limits,
    Process,
    Result,
    Who,
    decode_result,
    encode_result,
)
from runtime.bench.table import comparison, report
from runtime.bench.work import Sizes
from runtime.bundle import open_bundle
from runtime.errors import ArtifactError
from runtime.held_folder import HeldFolder
from runtime.manifest import Manifest
from training.config import config_from_preset
from verbs.bench_draw import Draw, drawn
from verbs.bench_file import check_writable, keep
from verbs.bench_machine import read_machine, read_moment, read_times
from verbs.bench_options import (
    ENGINES,
    Options,
    check_gallery,
    check_options,
    check_written,
    lengths_of,
    pairs_of,
    written,
)
from verbs.bench_orders import Job, Kind, Reply, started
from verbs.bench_rounds import Turns
from verbs.bench_sizes import sizes_of_bundle, sizes_of_config, work_of


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Subject:
    name: str
    bundle: Path
    weights: Path | None = None
    sizes: Sizes | None = None
    """None where the bundle's manifest says."""


def run_bench(options: Options, *, json_file: Path | None) -> None:
    """Measure, keep the raw samples, and print the tables.

    Raises:
        UsageError: Neither or both of bundle and preset, an unknown engine, numbers
            that measure nothing.
        ArtifactError: The samples' file cannot be written, or may not lie there.
        ConfigError: No such preset.
        BundleError: The bundle is not exactly what its manifest lists.
        BackendError: An engine is missing, fails or dies.
        ParityError: Engines do not compute the same.
    """
    check_options(options)
    if json_file is not None:
        check_writable(json_file)
    say = _progress()
    # Where this process is killed, the next one that makes such a folder removes it.
    with HeldFolder() as scratch:
        subject = _subject(options, scratch, say)
        result = _measure(options, subject, scratch, say)
    # Neither a full disk nor a reader that went away may take the minutes with it.
    try:
        if json_file is not None:
            keep(json_file, encode_result(result))
    finally:
        print(report(result), flush=True)


def _progress() -> Callable[[str], None]:
    began = time.monotonic()

    def say(line: str) -> None:
        elapsed = time.monotonic() - began
        print(f"{elapsed:6.1f} s  {line}", file=sys.stderr, flush=True)

    return say


def _subject(options: Options, scratch: Path, say: Callable[[str], None]) -> _Subject:
    if options.bundle is not None:
        return _Subject(f"bundle {printable(options.bundle.name)}", options.bundle)
    name = options.preset or ""
    config = config_from_preset(name)
    say(f"draw and export a model of preset {name}")
    subject = f"preset {name}"
    if options.depth is not None:
        flow = replace(config.flow, depth=options.depth)
        config = replace(config, flow=flow)
        subject += f" with {options.depth} blocks"
    out = scratch / "preset"
    out.mkdir()
    bundle = drawn(
        Draw(
            config=config,
            out=str(out),
            created=_today(),
            seed=0,
            precisions=tuple(written(options)),
        )
    )
    return _Subject(subject, bundle, out / "weights", sizes_of_config(config))


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _measure(
    options: Options, subject: _Subject, scratch: Path, say: Callable[[str], None]
) -> Result:
    cache = scratch / "cache"
    cache.mkdir(mode=0o700)
    is_drawn = subject.weights is not None
    with open_bundle(subject.bundle, cache, is_drawn=is_drawn) as bundle:
        manifest: Manifest = bundle.manifest
        components = len(bundle.feature_space().whitening.components)
        # The weights of a preset are drawn, and its bundle is another every day.
        sha256 = bundle.sha256 if subject.sizes is None else None
    # Before anything is measured: of some solvers not every number is one of steps.
    lengths = lengths_of(manifest.flow, options.plan.evaluations)
    plan = dataclasses.replace(options.plan, evaluations=lengths)
    sizes = subject.sizes or sizes_of_bundle(manifest)
    machine, before, ticks = read_machine(), read_moment(), read_times()
    threads = tuple(dict.fromkeys(options.threads or (machine.cores,)))
    pairs = pairs_of(options)
    whos = [
        Who(peer=peer, precision=precision, threads=count)
        for count in threads
        for peer, precision in pairs
    ]
    ours = [who for who in whos if (who.peer, who.precision) == pairs[0]]
    for who in whos:
        if who.peer in ENGINES:
            check_written(manifest, who.peer, who.precision)
    check_gallery(
        options.gallery,
        manifest.latent.tokens * manifest.latent.width,
        processes=sum(who.peer in ENGINES for who in whos),
        memory=machine.memory_bytes,
    )
    rate = rate_of(whos, say)

    def job(
        kind: Kind, who: Who, cached: Path = cache, engines: Path | None = None
    ) -> Job:
        return Job(
            kind=kind,
            who=who,
            bundle=str(subject.bundle),
            cache=str(cached),
            engines=None if engines is None else str(engines),
            weights=None if subject.weights is None else str(subject.weights),
            sizes=sizes,
            gallery=options.gallery,
        )

    processes = []
    for i, who in enumerate(whos):
        if who.peer in ENGINES:
            say(f"{who}: first start and starts from cache")
            copies, engines = (
                scratch / f"{name}-{i}" for name in ("copies", "engines")
            )
            for own in (copies, engines):
                own.mkdir(mode=0o700)
            found = process_of(job("serve", who, copies, engines))
            if found.uncached:
                say(f"{who}: no start from cache, because {found.uncached}")
            processes.append(found)
            # A copy of the bundle and its engines: at the paper's size 2 GB each.
            shutil.rmtree(copies)
            shutil.rmtree(engines)
    with ExitStack() as stack:
        turns = Turns(plan, say)
        for count in threads if rate else ():
            who = Who(peer="limits", precision=rate, threads=count)
            turns.limits[count] = stack.enter_context(started(job("limits", who)))
        for who in whos:
            say(f"{who}: compile, and check against the golden vectors")
            turns.engines[who] = stack.enter_context(started(job("stages", who)))
        taken = turns.take(first=ours)
        paced = turns.pace(ours)
    later = read_times()
    steal = steal_share(ticks, later) if ticks and later else None
    evaluations = manifest.flow.decode_evaluations
    return Result(
        created=_today(),
        subject=subject.name,
        sizes=sizes,
        bundle_sha256=sha256,
        solver=manifest.flow.solver,
        estimator=manifest.estimator,
        gallery=options.gallery,
        decode_evaluations=evaluations,
        machine=machine,
        before=before,
        after=read_moment(),
        steal=steal,
        work=work_of(
            sizes,
            gallery=options.gallery,
            components=components,
            evaluations=evaluations,
        ),
        limits=tuple(
            Limits(threads=count, precision=rate, rounds=tuple(rounds))
            for count, rounds in taken.limits.items()
        ),
        series=taken.series(),
        steps=taken.steps(lengths),
        paced=tuple(paced),
        processes=tuple(processes),
    )


def rate_of(whos: Sequence[Who], say: Callable[[str], None]) -> str:
    """Return the precision whose limits are measured; empty where none are.

    Of integers and float16 no limit is measured: multiples are of float32's. So they
    are where bfloat16's would need a library that is not here.
    """
    here = [who for who in whos if not who.is_on_gpu]
    if not here:
        say("limits: none, because those measured are the processor's; a GPU computes")
        return ""
    if here[0].precision != "bf16":
        return "f32"
    if find_spec("openvino") is None:
        say("limits: of float32 by numpy; those of bf16 need openvino (extra cpu)")
        return "f32"
    return "bf16"


def process_of(job: Job, cached: int = 3) -> Process:
    """Start a process that serves, once with an empty cache and then from it.

    Raises:
        BackendError: It cannot do its job, or died.
    """
    taken, replies = [], []
    for _ in range(1 + cached):
        began = time.monotonic_ns()
        with started(job) as child:
            replies.append(child.ready)
        taken.append(replies[-1].now_ns - began)
    return Process(
        who=job.who,
        fresh_ns=taken[0],
        cached_ns=tuple(taken[1:]),
        uncached=_uncached(replies[1:], job.engines or ""),
        resident_bytes=replies[-1].resident_bytes,
        peak_bytes=replies[-1].peak_bytes,
    )


def _uncached(replies: Sequence[Reply], folder: str) -> str:
    """Say why starts are none from cache; empty where they are."""
    worst = max(replies, key=lambda one: one.engines_built)
    if not worst.engines_built:
        return ""
    why = worst.cache_said.partition(";")[0].replace(folder, "its folder")
    total = worst.engines_built + worst.engines_loaded
    end = f" ({why})" if why else ""
    return f"{worst.engines_built} of {total} engines were built anew{end}"


def compare_files(before: Path, after: Path) -> None:
    """Print what changed between two files of ``--json``.

    Raises:
        ArtifactError: A file is missing, damaged, or no result of this version.
        UsageError: They did not measure the same work.
    """
    results = [decode_result(_read(file), str(file)) for file in (before, after)]
    print(comparison(_printable(compare(*results))), end="")


def _printable(found: Comparison) -> Comparison:
    """Write out what a terminal would obey in names that others' files gave."""
    named = (replace(one, name=printable(one.name)) for one in found.changes)
    return replace(
        found,
        changes=tuple(named),
        missing=tuple(map(printable, found.missing)),
        notes=tuple(map(printable, found.notes)),
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{file}: expected a file of neuroflow bench --json, "
            f"found: {error.strerror}"
        ) from error
