"""Reads how a server is from what its processes leave in the folder of the moment.

Nothing here can fail: what is not there, or not yet, is absent. It may wait, where a
disk does not answer; it is therefore never called by a loop that others wait for.
"""

import contextlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from bci_bridge.histogram import Histogram
from bci_bridge.oversight import Oversight
from bci_bridge.places import INPUTS, Places
from bci_bridge.pressure import KINDS, Pressure, pressure_from
from bci_bridge.settings import (
    INGRESS,
    PUBLISHER,
    WORKERS,
    IngressReport,
    PublisherReport,
)
from bci_bridge.setup import Account, Ready, path_of, read_beat, read_if_there
from bci_bridge.vitals import SUPERVISOR, Log, Process, Vitals

T = TypeVar("T", bound=msgspec.Struct)
PRESSURE = Path("/proc/pressure")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def examine(places: Places, supervisor: int, now_ns: int) -> Vitals:
    """Look at every process of a server.

    Args:
        places: The server's folders.
        supervisor: Process id.
        now_ns: This instant on the monotonic clock.
    """
    moment = places.moment
    seen = _read(path_of(moment, SUPERVISOR, "account"), Oversight)
    pids = {} if seen is None else seen.pids
    restarts = {} if seen is None else seen.restarts
    outages = {} if seen is None else seen.outages
    accounts = {
        name: _read(path_of(moment, name, "account"), Account) or Account()
        for name in (INGRESS, PUBLISHER, *WORKERS)
    }
    wrote = Histogram()
    for name in WORKERS:
        if (said := accounts[name].wrote) is not None:
            wrote = wrote.after(said.syncs)
    processes = tuple(
        Process(
            name,
            ready=_read(path_of(moment, name, "ready"), Ready),
            last_ns=read_beat(moment, name),
            restarts=restarts.get(name, 0),
            outages=outages.get(name, Histogram()),
            resident_bytes=resident_bytes(pids.get(name, 0)),
            trouble=accounts[name].trouble,
            unread=accounts[name].unread,
        )
        for name in (INGRESS, PUBLISHER, *WORKERS)
    )
    return Vitals(
        now_ns=now_ns,
        supervisor=Process(
            SUPERVISOR,
            last_ns=None if seen is None else seen.written_ns,
            resident_bytes=resident_bytes(supervisor),
        ),
        processes=processes,
        came=accounts[INGRESS].came or IngressReport(),
        went=accounts[PUBLISHER].went or PublisherReport(),
        log=None if places.recording is None else _log(places.log(INPUTS)),
        wrote=wrote,
        pressure=read_pressure(),
    )


def resident_bytes(pid: int) -> int | None:
    """Say how much memory a process holds; None where there is no such process."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/statm").read_text("ascii").split()
        return int(fields[1]) * PAGE_BYTES
    return None


def read_pressure(folder: Path = PRESSURE) -> Pressure:
    """Read what the kernel tells of each resource; what it does not tell is absent.

    Args:
        folder: Where it tells it.
    """
    found: Pressure = {}
    for resource in KINDS:
        # Without the feature there is no file, or one that cannot be read.
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found |= pressure_from(resource, (folder / resource).read_text("ascii"))
    return found


def _log(folder: Path) -> Log | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    is_writable = not found.f_flag & os.ST_RDONLY and os.access(folder, os.W_OK)
    return Log(is_writable, found.f_bavail * found.f_frsize)


def _read(path: Path, kind: type[T]) -> T | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return read_if_there(path, kind)
    return None
