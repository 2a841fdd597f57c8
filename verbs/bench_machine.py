"""Reads what a machine tells of itself, from the files of Linux."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Final

from runtime.bench.machine import (
    CpuTimes,
    Machine,
    Moment,
    clock_mhz,
    cpu_name,
    cpu_times,
    memory_field,
    size_bytes,
)
from verbs.rig import instruction_sets

LIBRARIES: Final = (
    "cuda-bindings", "neuroflow-rt", "numpy", "onnxruntime", "onnxruntime-gpu",
    "openvino", "scipy", "tensorrt", "tensorrt-rtx", "torch",
)  # fmt: skip


def read_machine(root: Path = Path("/")) -> Machine:
    """Return the machine's identity; what it does not tell is None.

    Args:
        root: Of the file system.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    cpu = root / "sys/devices/system/cpu/cpu0"
    levels = sorted((cpu / "cache").glob("index*/size"))
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Machine(
        cpu=cpu_name(cpuinfo),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=memory_field(_text(root / "proc/meminfo"), "MemTotal") or 0,
        cache_bytes=size_bytes(_text(levels[-1]).strip()) if levels else None,
        instruction_sets=instruction_sets(cpuinfo),
        hypervisor="hypervisor" in cpuinfo.split(),
        governor=_text(cpu / "cpufreq/scaling_governor").strip() or None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=versions,
    )


def read_moment(root: Path = Path("/")) -> Moment:
    """Return clock, temperature and load as they are now."""
    heat = [
        int(text) / 1000
        for pattern in ("class/hwmon/hwmon*/temp*_input", "class/thermal/*/temp")
        for file in (root / "sys").glob(pattern)
        if (text := _text(file).strip()).isdigit()
    ]
    load = _text(root / "proc/loadavg").split()
    return Moment(
        clock_mhz=clock_mhz(_text(root / "proc/cpuinfo")),
        temperature_c=max(heat, default=None),
        load=float(load[0]) if load else None,
    )


def read_times(root: Path = Path("/")) -> CpuTimes | None:
    """Return where the processors' time went; None where the system does not say."""
    stat = _text(root / "proc/stat")
    return cpu_times(stat) if stat else None


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace")
    except OSError:
        # A sensor that cannot be read tells nothing.
        return ""
