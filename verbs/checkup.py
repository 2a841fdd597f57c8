"""What a rig needs, held against what it has.

Pure: facts in, findings out; `verbs.doctor` reads the facts. A problem keeps the server
from working, a warning from working as well as it could. A figure that is judged here
says where it comes from.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from bci_bridge.places import MEMORY
from bci_bridge.recorder import SEGMENT_BYTES, SPILL_SEGMENTS, SYNC_INTERVAL_S

GIB: Final = 1 << 30
PROCESSES: Final = 4
"""Ingress, publisher, the worker that answers and the one that stands by."""

SPILL_BYTES: Final = 2 * SPILL_SEGMENTS * SEGMENT_BYTES
"""What two logs keep in memory while the disk fails."""

LEAST_SPILL_BYTES: Final = 4 * SEGMENT_BYTES
"""Two segments of each log: below this a log cannot even change its segment."""

LOG_BYTES: Final = 2 * GIB
"""An hour of 64 x 64 x 36 voxels in 16 bits, one a second, is 1.06 GB; twice that."""

DESCRIPTORS: Final = 4096
"""Two hundred idle connections lock a scanner out where there are 128."""

SLOW_SYNC_S: Final = SYNC_INTERVAL_S
"""A disk that syncs more slowly than it is asked to lags behind for good."""

LOST_SYNC_S: Final = 1.0
"""What a loss of power may cost."""

EXACT_CLOCKS: Final = frozenset(
    {"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "xen"}
)
"""Clock sources that are read without leaving the program."""

Status = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    what: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """The folder of a log."""

    folder: str
    refusal: str = ""
    """Why a server would not record there; empty where it would."""
    trouble: str = ""
    """Why it cannot be written; empty where it can."""
    free_bytes: int = 0
    sync_s: float = 0.0
    """Median time to put a volume on disk for good."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Where a console's images come."""

    missing: tuple[str, ...] = ()
    """Modules that read them and are not installed."""
    folder: str = ""
    """Empty where none was named."""
    trouble: str = ""
    """Why it cannot be read."""
    volume: str = ""
    """What the first functional volume in it is; empty where there is none."""
    left_out: str = ""
    """What else is in it, and why that is not decoded."""
    address: str = ""
    """Where a console shall push; empty where nowhere."""
    address_trouble: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine has. None: it could not be read."""

    engines: dict[str, str] = field(default_factory=dict)
    """Versions of the engine libraries' distributions."""
    broken: dict[str, str] = field(default_factory=dict)
    """Engine libraries that are installed and do not load, with the reason."""
    machine: str = "x86_64"
    instructions: tuple[str, ...] = ()
    processors: int = PROCESSES
    is_urgent: bool = True
    """A process may run before all other programs (`bci_bridge.urgency`)."""
    gpu: str = ""
    clock_s: float = 1e-9
    clock_source: str | None = None
    governor: str | None = None
    address: str = ""
    address_refusal: str = ""
    """Why a server would not listen there; empty where it would."""
    port_trouble: str = ""
    descriptors: int = DESCRIPTORS
    memory_bytes: int | None = None
    """Size of /dev/shm."""
    disk: Disk | None = None
    keys: str | None = None
    """Folder of keys; None where none was named."""
    key_trouble: str = ""
    devices: int = 0
    images: ImageFacts | None = None


def findings(facts: Facts) -> list[Finding]:
    """Judge a machine, line by line."""
    return [
        *_engines(facts),
        _instructions(facts),
        _processors(facts),
        _urgency(facts),
        _gpu(facts),
        _clock(facts),
        _clock_source(facts),
        _governor(facts),
        _port(facts),
        _descriptors(facts),
        _memory(facts),
        *_disk(facts),
        *_keys(facts),
        *_images(facts),
    ]


def _ok(what: str, found: str) -> Finding:
    return Finding(what=what, status="ok", found=found)


def _warning(what: str, found: str, remedy: str) -> Finding:
    return Finding(what=what, status="warning", found=found, remedy=remedy)


def _problem(what: str, found: str, remedy: str) -> Finding:
    return Finding(what=what, status="problem", found=found, remedy=remedy)


def _refused(what: str, line: str) -> Finding:
    """Repeat what a server says that refuses; its remedy is the line's end."""
    found, _, remedy = line.removesuffix(".").rpartition(". ")
    return _problem(what, found, remedy)


def _engines(facts: Facts) -> Iterator[Finding]:
    engines = facts.engines
    if "onnxruntime" in engines and "onnxruntime-gpu" in engines:
        yield _problem(
            "engines",
            "onnxruntime and onnxruntime-gpu, which overwrite each other",
            "Uninstall both, then install the extra cpu or gpu",
        )
    for name, reason in facts.broken.items():
        yield _problem("engines", f"{name} does not load: {reason}", "Install it anew")
    is_gpu = any(name.startswith("tensorrt") for name in engines)
    if is_gpu and "cuda-bindings" not in engines:
        yield _warning(
            "engines", "tensorrt without cuda-bindings", "Install the extra gpu"
        )
    if is_gpu and not facts.gpu:
        yield _warning(
            "engines",
            "tensorrt, and no NVIDIA driver",
            "Install the driver, or choose another backend",
        )
    sound = [f"{n} {v}" for n, v in engines.items() if n not in facts.broken]
    # By itself the way to a GPU computes nothing.
    if sound and engines.keys() != {"cuda-bindings"}:
        yield _ok("engines", ", ".join(sound))
    elif not facts.broken:
        yield _problem("engines", "none", "Install the extra cpu")


def _instructions(facts: Facts) -> Finding:
    found = " ".join(facts.instructions) or "none known"
    if facts.machine == "x86_64" and "avx2" not in facts.instructions:
        return _warning(
            "instructions",
            f"{found}, without avx2",
            "Expect several times the latency, or use a newer processor",
        )
    return _ok("instructions", f"{facts.machine}: {found}")


def _processors(facts: Facts) -> Finding:
    if facts.processors < PROCESSES:
        return _warning(
            "processors",
            f"{facts.processors}",
            f"Give the server {PROCESSES}, one for each of its processes",
        )
    return _ok("processors", f"{facts.processors}")


def _urgency(facts: Facts) -> Finding:
    if facts.is_urgent:
        return _ok("scheduling", "real-time: before all other programs")
    return _warning(
        "scheduling",
        "ordinary: other programs can hold up an answer",
        "Allow a real-time priority of 2 (RLIMIT_RTPRIO) and give two processors",
    )


def _gpu(facts: Facts) -> Finding:
    return _ok("gpu", facts.gpu or "none, and none is needed")


def _clock(facts: Facts) -> Finding:
    found = f"resolution of {facts.clock_s:g} s"
    if facts.clock_s > 1e-6:
        return _warning("clock", found, "Use a kernel with high-resolution timers")
    return _ok("clock", found)


def _clock_source(facts: Facts) -> Finding:
    source = facts.clock_source
    if source is None:
        return _ok("clock source", "not readable here")
    if source not in EXACT_CLOCKS:
        return _warning(
            "clock source", source, "Choose tsc in the firmware or the kernel's options"
        )
    return _ok("clock source", source)


def _governor(facts: Facts) -> Finding:
    if facts.governor is None:
        return _ok("governor", "not readable here")
    if facts.governor != "performance":
        return _warning(
            "governor",
            facts.governor,
            "Set performance: cpupower frequency-set -g performance",
        )
    return _ok("governor", facts.governor)


def _port(facts: Facts) -> Finding:
    if facts.address_refusal:
        return _refused("port", facts.address_refusal)
    if facts.port_trouble:
        return _warning(
            "port",
            f"{facts.address}: {facts.port_trouble}",
            "Stop the other program or give another --address",
        )
    return _ok("port", f"{facts.address} is free")


def _descriptors(facts: Facts) -> Finding:
    found = f"at most {facts.descriptors}"
    if facts.descriptors < DESCRIPTORS:
        return _problem("descriptors", found, f"Raise ulimit -Hn to {DESCRIPTORS}")
    return _ok("descriptors", found)


def _memory(facts: Facts) -> Finding:
    what, size = str(MEMORY), facts.memory_bytes
    remedy = f"Give it {SPILL_BYTES // GIB} GiB: mount -o remount,size=... {what}"
    if size is None:
        return _warning(what, "none; a folder of temporary files is used", remedy)
    found = f"{size / GIB:.2f} GiB"
    if size < LEAST_SPILL_BYTES:
        return _problem(what, found, remedy)
    if size < SPILL_BYTES:
        return _warning(what, found, remedy)
    return _ok(what, found)


def _disk(facts: Facts) -> Iterator[Finding]:
    disk = facts.disk
    if disk is None:
        return
    if disk.refusal:
        yield _refused("log", disk.refusal)
        return
    if disk.trouble:
        yield _problem(
            "log", f"{disk.folder}: {disk.trouble}", "Name a folder to write to"
        )
        return
    found = f"{disk.free_bytes / GIB:.1f} GiB free"
    if disk.free_bytes < LOG_BYTES:
        yield _problem("log room", found, "Make room, or name a larger disk")
    else:
        yield _ok("log room", found)
    found = f"{1000 * disk.sync_s:.1f} ms for a volume"
    remedy = "Record to a local solid-state disk"
    if disk.sync_s > LOST_SYNC_S:
        yield _problem("log sync", found, remedy)
    elif disk.sync_s > SLOW_SYNC_S:
        yield _warning("log sync", found, remedy)
    else:
        yield _ok("log sync", found)


def _keys(facts: Facts) -> Iterator[Finding]:
    if facts.keys is None:
        return
    if facts.key_trouble:
        yield _problem("keys", facts.key_trouble, "See docs/security.md")
    elif not facts.devices:
        remedy = "Make one: neuroflow keys make --folder ... --name ... --roles ..."
        yield _warning("keys", f"{facts.keys}: no device in force", remedy)
    else:
        yield _ok("keys", f"{facts.keys}: {facts.devices} devices in force")


def _images(facts: Facts) -> Iterator[Finding]:
    images = facts.images
    if images is None:
        return
    if images.missing:
        found = f"{' and '.join(images.missing)} not installed"
        yield _problem("dicom", found, "Install neuroflow-rt[scanner]")
    elif images.folder and images.trouble:
        yield _problem("dicom folder", images.trouble, "See docs/scanners.md")
    elif images.folder and images.volume:
        yield _ok("dicom folder", f"{images.folder}: {images.volume}")
    elif images.folder:
        found = f"{images.folder}: no functional volume"
        found += f"; {images.left_out}" if images.left_out else ""
        yield _warning("dicom folder", found, "Export one and look again")
    if images.address and images.address_trouble:
        yield _warning(
            "dicom port",
            f"{images.address}: {images.address_trouble}",
            "Stop the other program or choose another port",
        )
    elif images.address:
        yield _ok("dicom port", f"{images.address} is free")
