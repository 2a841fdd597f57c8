"""Identity of the processor that an engine is compiled for."""

import hashlib
import platform
from pathlib import Path
from typing import Final

CPU_FACTS: Final = Path("/proc/cpuinfo")
_NAMES: Final = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")


def cpu_identity(facts: str, machine: str) -> str:
    """Return what a compiler may have looked at in a processor, in one line.

    Args:
        facts: What Linux says of the processors; empty where it says nothing.
        machine: The architecture.
    """
    found: dict[str, str] = {}
    for line in facts.splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    known = "\n".join(f"{name} {found.get(name, '')}" for name in _NAMES)
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    return f"{machine} {found.get('model name', 'unknown')} {digest}"


def cpu_flags(facts: str) -> frozenset[str]:
    """Return the instruction sets of the first processor; empty where nothing is said.

    Args:
        facts: What Linux says of the processors.
    """
    for line in facts.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def cpu_here() -> str:
    """Return the identity of this machine's processor."""
    return cpu_identity(cpu_facts(), platform.machine())


def cpu_facts() -> str:
    """Return what Linux says of the processors; empty on other systems."""
    if CPU_FACTS.exists():
        return CPU_FACTS.read_text(encoding="ascii", errors="replace")
    return ""
