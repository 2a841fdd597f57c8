"""How much of its time the machine's tasks waited for processor, memory or disk. Pure.

Linux tells it (pressure stall information) where it was built and started to. What it
does not tell is absent here, never 0: a starved machine must not look like an idle one.
"""

import contextlib
from typing import Final

KINDS: Final = {"cpu": ("some",), "memory": ("some", "full"), "io": ("some", "full")}
"""What the kernel measures: time in which some, or all, tasks waited.

Of the processor only ``some``: for the machine as a whole "all tasks wait for it" has
no meaning, and the kernel writes a 0 there for the sake of old readers.
"""

Pressure = dict[tuple[str, str], float]
"""Percent of the last ten seconds, by resource and kind."""


def pressure_from(resource: str, text: str) -> Pressure:
    """Read what the kernel says of one resource; what cannot be read is left out.

    Args:
        resource: Key of `KINDS`.
        text: Its file.
    """
    found: Pressure = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        values = dict(field.partition("=")[::2] for field in rest.split())
        with contextlib.suppress(KeyError, ValueError):
            percent = float(values["avg10"])
            if kind in KINDS[resource] and 0 <= percent <= 100:
                found[resource, kind] = percent
    return found
