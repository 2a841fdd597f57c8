"""`neuroflow doctor`: what this rig has, and what to fix.

Reads, and leaves nothing behind; what is good enough is said in `verbs.checkup`.
"""

import contextlib
import importlib
import os
import platform
import resource
import socket
import statistics
import tempfile
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from bci_bridge.endpoints import check_address
from bci_bridge.keyfolder import read_allow_list, read_key_pair
from bci_bridge.keyring import SERVER
from bci_bridge.places import MEMORY, require_segments_alone
from bci_bridge.urgency import SUPERVISOR, urgent
from runtime.errors import ArtifactError, BackendError, UsageError
from verbs.checkup import Disk, Facts, Finding, ImageFacts, findings
from verbs.doctor_images import image_facts
from verbs.rig import CPU_FACTS, instruction_sets

MODULES: Final = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "cuda-bindings": "cuda.bindings.runtime",
}
CLOCK_SOURCE: Final = Path(
    "/sys/devices/system/clocksource/clocksource0/current_clocksource"
)
GOVERNOR: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
GPU_DRIVER: Final = Path("/proc/driver/nvidia/version")

SYNCS: Final = 9
VOLUME_BYTES: Final = 64 * 64 * 36 * 2


def examine_rig(
    *,
    address: str,
    log: Path | None,
    keys: Path | None,
    as_json: bool,
    images: Path | None = None,
    listen: str | None = None,
) -> None:
    """Print a line for everything that a server leans on.

    Raises:
        UsageError: The address is malformed, or no one interface's.
        BackendError: There is a problem.
    """
    check_address(address, has_keys=True)
    facts = _facts(address, log, keys)
    found = findings(replace(facts, images=_images(images, listen)))
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        for one in found:
            print(_line(one))
    problems = sum(one.status == "problem" for one in found)
    if problems:
        raise BackendError(f"doctor: expected no problem, found {problems}")


def _line(finding: Finding) -> str:
    remedy = f". {finding.remedy}." if finding.remedy else ""
    return f"{finding.status:<8}{finding.what:<14}{finding.found}{remedy}"


def _facts(address: str, log: Path | None, keys: Path | None) -> Facts:
    engines, broken = _engines()
    key_trouble, devices = _keys(keys)
    return Facts(
        engines=engines,
        broken=broken,
        machine=platform.machine(),
        instructions=instruction_sets(_text(CPU_FACTS) or ""),
        processors=len(os.sched_getaffinity(0)),
        is_urgent=_may_be_urgent(),
        gpu=(_text(GPU_DRIVER) or "").partition("\n")[0],
        clock_s=time.clock_getres(time.CLOCK_MONOTONIC),
        clock_source=_text(CLOCK_SOURCE),
        governor=_text(GOVERNOR),
        address=address,
        address_refusal=_address_refusal(address, has_keys=keys is not None),
        port_trouble=_port_trouble(address),
        descriptors=_descriptors(),
        memory_bytes=_size(MEMORY),
        disk=None if log is None else _disk(log),
        keys=None if keys is None else str(keys),
        key_trouble=key_trouble,
        devices=devices,
    )


def _images(folder: Path | None, listen: str | None) -> ImageFacts | None:
    found = image_facts(folder, listen)
    if found is None or not found.address:
        return found
    return replace(found, address_trouble=_port_trouble(found.address))


def _engines() -> tuple[dict[str, str], dict[str, str]]:
    found: dict[str, str] = {}
    for name in MODULES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    broken: dict[str, str] = {}
    for name in found:
        try:
            importlib.import_module(MODULES[name])
        except (ImportError, OSError) as error:
            broken[name] = str(error).partition("\n")[0][:200]
    return found, broken


def _may_be_urgent() -> bool:
    with urgent(SUPERVISOR) as is_urgent:
        return is_urgent


def _text(file: Path) -> str | None:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="ascii", errors="replace").strip()
    return None


def _descriptors() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (1 << 31) - 1 if hard == resource.RLIM_INFINITY else hard


def _address_refusal(address: str, *, has_keys: bool) -> str:
    """Say why a server would not listen there; empty where it would."""
    try:
        check_address(address, has_keys=has_keys)
    except UsageError as error:
        return str(error)
    return ""


def _port_trouble(address: str) -> str:
    if not address.startswith("tcp://") or address.endswith(":*"):
        return ""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            line.bind((host, int(port)))
            line.listen(1)
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return ""


def _size(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize


def _disk(log: Path) -> Disk:
    try:
        require_segments_alone(log)
    except UsageError as error:
        return Disk(str(log), refusal=str(error))
    # It need not be there yet: the server makes it in the nearest folder that is.
    folder = log.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        found = os.statvfs(folder)
        times = []
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(SYNCS):
                before_s = time.perf_counter()
                os.write(file.fileno(), bytes(VOLUME_BYTES))
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - before_s)
    except OSError as error:
        return Disk(str(log), trouble=(error.strerror or str(error)).lower())
    return Disk(
        str(log),
        free_bytes=found.f_bavail * found.f_frsize,
        sync_s=statistics.median(times),
    )


def _keys(folder: Path | None) -> tuple[str, int]:
    if folder is None:
        return "", 0
    try:
        read_key_pair(folder / f"{SERVER}.key")
        return "", len(read_allow_list(folder).in_force())
    except ArtifactError as error:
        return str(error), 0
