"""What this machine computes with, as a server puts it at the head of its log."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Final

from bci_bridge.messages import RigNote

CPU_FACTS: Final = Path("/proc/cpuinfo")
KERNEL_FLAGS: Final = (
    "amx", "asimd", "avx", "bf16", "f16c", "fma", "fphp", "i8mm", "sse", "ssse", "sve",
)  # fmt: skip
"""Beginnings of the instruction sets by which numerical libraries choose kernels."""

LIBRARIES: Final = {
    "ort": ("onnxruntime", "onnxruntime-gpu"),
    "ort_cuda": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-rtx", "cuda-bindings"),
}


def rig_here(
    backend: str, *, threads: int | None, abstain_below: float, precision: str = "f32"
) -> RigNote:
    """Describe this machine and what is installed on it.

    Args:
        backend: Engine library, a backend of `runtime.engine`.
        threads: Of one evaluation; None leaves the choice to the library.
        abstain_below: Confidence under which the decision is ABSTAIN.
        precision: Of the arithmetic.
    """
    versions = {"python": platform.python_version()}
    names = (*LIBRARIES.get(backend, ()), "numpy", "scipy", "neuroflow-rt")
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    facts = ""
    if CPU_FACTS.exists():
        facts = CPU_FACTS.read_text(encoding="ascii", errors="replace")
    return RigNote(
        stream="server",
        backend=backend,
        precision=precision,
        threads=threads,
        processors=len(os.sched_getaffinity(0)),
        abstain_below=abstain_below,
        cpu=(platform.machine(), *instruction_sets(facts)),
        versions=versions,
    )


def instruction_sets(facts: str) -> tuple[str, ...]:
    """Return the instruction sets of the first processor, from Linux's description."""
    for line in facts.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found = {flag for flag in value.split() if flag.startswith(KERNEL_FLAGS)}
            return tuple(sorted(found))
    return ()
