"""What a benchmark is asked for; what cannot be measured is refused before any work."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import msgspec

from runtime.bench.result import AUTOCAST, COMPILED, EAGER, TORCH
from runtime.bench.statistics import check_counts
from runtime.bench.work import BYTES_OF
from runtime.engine import Precision
from runtime.errors import UsageError
from runtime.graphs import map_limits
from runtime.manifest import EIGHT_BITS, FlowSpec, Manifest
from runtime.solver import solver_from_name
from verbs.bench_rounds import Plan

ENGINES: Final = ("openvino", "ort", "ort_cuda", "tensorrt", "reference")
PEERS: Final = (*ENGINES, *TORCH)
_ALL: Final = tuple(BYTES_OF)
COMPUTES: Final = MappingProxyType(
    {
        "openvino": ("f32", "bf16", "int8"),
        "ort": ("f32", "f16", "int8", "fp8"),
        "ort_cuda": ("f32", "f16", "bf16", "int8"),
        "tensorrt": _ALL,
        "reference": _ALL,
        EAGER: ("f32", "bf16"),
        COMPILED: ("f32", "bf16"),
        AUTOCAST: ("bf16",),
    }
)
"""Precisions of each, some of them only as a graph is written; whether this machine has
the library, the device or the instructions is seen when it is opened."""
_TYPED: Final = ("ort_cuda", "tensorrt", "reference")
"""Compute bf16 only where the graph is written in it."""
EVALUATIONS: Final = (1, 5, 10, 20)
"""Lengths of the flow where none are named, of a solver that makes one a step."""
FEWEST_ROUNDS: Final = 6
"""With fewer, no interval of a median has the confidence."""
MOST: Final = MappingProxyType(
    {
        "rounds": 10_000,
        "volumes": 100_000,
        "gallery": 1_000_000,
        "depth": 256,
        "evaluations": 1000,
    }
)
"""Far beyond what is of use; a run of more takes days, or all memory before it fails.
The whole Natural Scenes Dataset has 73,000 images."""
_COPIES: Final = 4
"""Of the gallery in a process that measures: as it is drawn, and as the rows of three
stages that search it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for."""

    bundle: Path | None
    preset: str | None
    depth: int | None
    """Blocks of the velocity field instead of the preset's."""
    backend: str
    precision: str
    threads: tuple[int, ...]
    against: tuple[str, ...]
    plan: Plan
    gallery: int


def check_options(options: Options) -> None:
    """Refuse what cannot be measured before anything is.

    Raises:
        UsageError: In one line.
    """
    if (options.bundle is None) == (options.preset is None):
        found = "neither" if options.bundle is None else "both"
        raise UsageError(f"bench: expected a BUNDLE or --preset, found {found}")
    known = COMPUTES[options.backend]
    if options.precision not in known:
        raise UsageError(
            f"precision: expected one of {', '.join(known)}, which {options.backend} "
            f"computes, found {options.precision}. Choose one of them, or another "
            "--backend."
        )
    for text in options.against:
        peer, precision = peer_of(text, options.precision)
        if peer not in PEERS:
            raise UsageError(
                f"against: expected some of {','.join(PEERS)}, found {peer}"
            )
        known = COMPUTES[peer]
        if precision not in known:
            found = text if ":" in text else f"{text} in {precision}"
            raise UsageError(
                f"against: expected {peer} in one of {', '.join(known)}, found {found}"
                f". Write {peer}:{known[0]}, or another of them."
            )
        if peer in TORCH and options.preset is None:
            raise UsageError(
                f"against: expected --preset for {peer}, found a bundle, which holds "
                "graphs and not torch's weights"
            )
    if options.depth is not None and options.preset is None:
        raise UsageError("depth: expected --preset, found a bundle, which has its own")
    plan = options.plan
    if plan.evaluations:
        check_counts(plan.evaluations)
    numbers = {
        "threads": (min(options.threads, default=1), 1),
        "rounds": (plan.rounds, FEWEST_ROUNDS),
        "volumes": (plan.volumes, 0),
        "gallery": (options.gallery, 1),
        "depth": (1 if options.depth is None else options.depth, 1),
    }
    for name, (value, least) in numbers.items():
        if value < least:
            raise UsageError(f"{name}: expected at least {least}, found {value}")
        _check_most(name, value)
    _check_most("evaluations", max(plan.evaluations, default=1))
    cores, threads = len(os.sched_getaffinity(0)), max(options.threads, default=1)
    if threads > cores:
        raise UsageError(
            f"threads: expected at most {cores}, the cores that this process may use, "
            f"found {threads}"
        )
    for name, amount in (("tr", plan.period_s), ("seconds", plan.seconds)):
        if not 0 < amount < 3600:
            raise UsageError(f"{name}: expected 0 to 3600 seconds, found {amount:g}")


def check_alone(beside: Sequence[str]) -> None:
    """Refuse what a comparison would pass over without a word.

    Args:
        beside: Names of what was asked for besides.

    Raises:
        UsageError: Naming it.
    """
    if beside:
        found = ("BUNDLE" if name == "bundle" else f"--{name}" for name in beside)
        raise UsageError(
            "bench: expected --compare alone, which measures nothing, found "
            f"{', '.join(found)} beside it. Measure with one line and compare with "
            "another."
        )


def check_written(manifest: Manifest, peer: str, precision: str) -> None:
    """Refuse a bundle without the graphs that an engine needs for a precision.

    Raises:
        BackendError: The engine does not compute it.
        BundleError: It has them not, or none of the flow's.
    """
    wanted: Precision = msgspec.convert(precision, Precision)
    map_limits(manifest, peer, wanted)
    if is_written(peer, precision) and wanted not in EIGHT_BITS:
        for name in ("encoder", "decoder", "step"):
            manifest.graph(name, wanted)


def _check_most(name: str, value: int) -> None:
    if value > MOST.get(name, value):
        raise UsageError(f"{name}: expected at most {MOST[name]:,}, found {value:,}")


def check_gallery(items: int, latent: int, *, processes: int, memory: int) -> None:
    """Refuse a gallery that does not fit into memory.

    Args:
        items: Of the gallery.
        latent: Numbers of one item, in float32.
        processes: That measure at the same time, each with a gallery.
        memory: Of the machine in bytes; 0 where it does not tell.

    Raises:
        UsageError: In one line, with what fits.
    """
    most = memory // (4 * latent * _COPIES * processes)
    if memory and items > most:
        raise UsageError(
            f"gallery: expected at most {most:,} items of {4 * latent:,} bytes, of "
            f"which {processes} processes keep {_COPIES} copies each in "
            f"{memory / 1e9:.3g} GB of memory, found {items:,}"
        )


def peer_of(text: str, wanted: str) -> tuple[str, str]:
    """Return an engine and its precision, as in ``openvino:int8``.

    Without one it is that of the run, where the engine has it: ONNX Runtime computes in
    float32 on the CPU, torch in float32 or bfloat16, torch's autocast in bfloat16.
    """
    peer, _, precision = text.partition(":")
    if precision:
        return peer, precision
    if peer == AUTOCAST:
        return peer, "bf16"
    if peer == "ort" or (peer in TORCH and wanted != "bf16"):
        return peer, "f32"
    return peer, wanted


def lengths_of(flow: FlowSpec, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of evaluations from which the cost of one is fitted.

    Args:
        flow: Of the bundle; its solver decides of how many evaluations a step is.
        wanted: What the command line names; empty for the usual ones, of which each is
            raised to a whole number of steps.

    Raises:
        UsageError: One of those named is no whole number of steps.
    """
    each = solver_from_name(flow.solver, flow.path).evaluations
    if not wanted:
        return tuple(each * -(-n // each) for n in EVALUATIONS)
    broken = [str(n) for n in wanted if n % each]
    if broken:
        raise UsageError(
            f"evaluations: expected multiples of {each}, which a step of {flow.solver} "
            f"makes, found {' '.join(broken)}. Leave them out."
        )
    return wanted


def pairs_of(options: Options) -> list[tuple[str, str]]:
    """Return what is measured, ours first, nothing twice."""
    others = [peer_of(text, options.precision) for text in options.against]
    return list(dict.fromkeys([(options.backend, options.precision), *others]))


def written(options: Options) -> tuple[Precision, ...]:
    """Return what a preset's graphs must be written in."""
    found = {
        precision
        for peer, precision in pairs_of(options)
        if peer in ENGINES and is_written(peer, precision)
    }
    return msgspec.convert(("f32", *sorted(found)), tuple[Precision, ...])


def is_written(peer: str, precision: str) -> bool:
    """Say whether an engine needs graphs that are written in a precision."""
    return precision in ("f16", *EIGHT_BITS) or (precision == "bf16" and peer in _TYPED)
