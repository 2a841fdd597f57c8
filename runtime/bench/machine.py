"""Which machine a figure belongs to. Pure: texts of the system in, statements out."""

import re

import msgspec

from runtime.errors import ArtifactError


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine, as far as it tells."""

    cpu: str
    """Model name."""
    cores: int
    """That this process may use."""
    memory_bytes: int
    cache_bytes: int | None
    """Of the last level; None where the machine does not tell, as with all below."""
    instruction_sets: tuple[str, ...]
    hypervisor: bool
    governor: str | None
    system: str
    """Kernel's name, release and architecture."""
    versions: dict[str, str]
    """Of Python and the libraries, by distribution."""

    def identity(self) -> tuple[str, int, tuple[str, ...]]:
        """Return what must agree before absolute times are compared."""
        return self.cpu, self.cores, self.instruction_sets


class Moment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What changes while a machine is measured."""

    clock_mhz: float | None
    """Mean over the cores."""
    temperature_c: float | None
    """Of the hottest sensor."""
    load: float | None
    """Runnable processes, mean over a minute."""


def cpu_name(cpuinfo: str) -> str:
    """Return the processor's name from ``/proc/cpuinfo``."""
    return _field(cpuinfo, "model name") or _field(cpuinfo, "CPU part") or "unknown"


def clock_mhz(cpuinfo: str) -> float | None:
    """Return the mean clock of the processors, where the text has it."""
    found = [float(mhz) for mhz in re.findall(r"(?m)^cpu MHz\s*:\s*([\d.]+)", cpuinfo)]
    return sum(found) / len(found) if found else None


def size_bytes(text: str) -> int | None:
    """Return a size such as ``32768K`` or ``8 kB`` in bytes; None where it is none."""
    match = re.fullmatch(r"(\d+)\s*([kKM]?)B?\s*", text)
    if match is None:
        return None
    return int(match[1]) * {"": 1, "k": 1024, "K": 1024, "M": 1024**2}[match[2]]


def memory_field(text: str, name: str) -> int | None:
    """Return a field of ``/proc/meminfo`` or ``/proc/PID/status`` in bytes."""
    value = _field(text, name)
    return None if value is None else size_bytes(value)


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"(?m)^{re.escape(name)}\s*:\s*(.*?)\s*$", text)
    return None if match is None else match[1]


class CpuTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the processors' time went since the start, in ticks."""

    total: int
    idle: int
    steal: int
    """Taken by the hypervisor for others while this machine had work."""


def cpu_times(stat: str) -> CpuTimes:
    """Read the first line of ``/proc/stat``.

    Raises:
        ArtifactError: It is not the line that Linux documents (proc_stat(5)).
    """
    match = re.match(r"cpu +(\d+(?: \d+){7})", stat)
    if match is None:
        first = stat.partition("\n")[0][:60]
        raise ArtifactError(f"/proc/stat: expected cpu and 8 numbers, found {first!r}")
    # Guest time, which may follow, is part of user time already.
    ticks = [int(number) for number in match[1].split()]
    return CpuTimes(total=sum(ticks), idle=ticks[3] + ticks[4], steal=ticks[7])


def steal_share(before: CpuTimes, after: CpuTimes) -> float | None:
    """Return the share of processor time that others took; None if none passed."""
    passed = after.total - before.total
    return (after.steal - before.steal) / passed if passed > 0 else None
