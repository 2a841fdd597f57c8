"""`neuroflow send`: a way out of a scanner, into a server.

Each source is opened here, and sent by `verbs.send_source`. What a source needs is
imported when it is opened.
"""

import importlib.util
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bci_bridge.sources.listening import Place, place_of, warning
from bci_bridge.telling import tell
from runtime.errors import BackendError, UsageError
from verbs.send_commands import Images, Sending
from verbs.send_source import said_of, send, send_recorded, send_watched

if TYPE_CHECKING:
    from bci_bridge.sources.dicom_receiver import DicomReceiver


def send_nifti(
    path: Path,
    sending: Sending,
    *,
    speed: float | None,
    is_fast: bool,
    pattern: str | None,
    first_number: int | None,
    is_new_only: bool,
    is_from_start: bool,
) -> None:
    """Send a recorded 4-D file, or a folder that fills with 3-D ones.

    Raises:
        UsageError: An option of files is given with a folder, or of folders with a
            file, or nobody said what becomes of the files of a folder; nothing is sent.
        ScanError: There is no such file or folder, or it is damaged.
    """
    from bci_bridge.sources.nifti import nifti_folder, recorded_nifti

    of_folders = {
        "--pattern": pattern is not None,
        "--first-number": first_number is not None,
        "--new-only": is_new_only,
        "--from-start": is_from_start,
    }
    if _is_folder(path, {"--speed": speed is not None, "--fast": is_fast}, of_folders):
        watch = partial(
            nifti_folder, path, pattern=pattern or "*", first_number=first_number
        )
        said = said_of(is_new_only, is_from_start)
        send_watched(path, sending, watch, said, pattern or "*")
    else:
        pace = _pace(speed, is_fast=is_fast)
        file = recorded_nifti(path, pace, tr_s=sending.tr_s)
        send_recorded(file, sending, pace)


def send_philips(
    path: Path,
    sending: Sending,
    *,
    speed: float | None,
    is_fast: bool,
    scaling: Literal["dv", "fp", "pv"],
    is_new_only: bool,
    is_from_start: bool,
) -> None:
    """Send a session's folder of PAR/REC pairs, or one pair that holds a run.

    Raises:
        UsageError: An option of files is given with a folder, or of folders with a
            file, or nobody said what becomes of the files of a folder; nothing is sent.
        ScanError: There is no such file or folder, or it is damaged.
    """
    from bci_bridge.sources.philips import philips_folder, recorded_philips

    of_files = {"--speed": speed is not None, "--fast": is_fast}
    of_folders = {"--new-only": is_new_only, "--from-start": is_from_start}
    if _is_folder(path, of_files, of_folders):
        watch = partial(philips_folder, path, scaling=scaling)
        send_watched(path, sending, watch, said_of(is_new_only, is_from_start))
    else:
        pace = _pace(speed, is_fast=is_fast)
        file = recorded_philips(path, pace, scaling=scaling, tr_s=sending.tr_s)
        send_recorded(file, sending, pace)


def send_pyneal(listen: str, sending: Sending) -> None:
    """Hear Pyneal Scanner adapters.

    Raises:
        ScanError: The port is taken.
    """
    from bci_bridge.sources.pyneal import PynealSource

    send(PynealSource(_listening(listen, "Pyneal's protocol")), sending)


def send_mrd(
    listen: str, position: Literal["centre", "corner"], sending: Sending
) -> None:
    """Hear a client of an MRD server.

    Raises:
        ScanError: The port is taken.
    """
    from bci_bridge.sources.mrd import mrd
    from bci_bridge.sources.tcp_source import TcpSource

    send(TcpSource(_listening(listen, "MRD"), "mrd", mrd(position)), sending)


def send_afni(listen: str, like: Path, sending: Sending) -> None:
    """Hear AFNI's real-time plugin.

    Raises:
        ScanError: The port is taken, or the grid's file is none.
    """
    from bci_bridge.sources.afni import Grid, afni
    from bci_bridge.sources.nifti import first_volume
    from bci_bridge.sources.tcp_source import TcpSource

    stored, affine = first_volume(like)
    grid = Grid(affine, stored != 0)
    send(TcpSource(_listening(listen, "AFNI's protocol"), "afni", afni(grid)), sending)


def send_vsend(listen: str, sending: Sending) -> None:
    """Hear MURFI's scanner protocol.

    Raises:
        ScanError: The port is taken.
    """
    from bci_bridge.sources.tcp_source import TcpSource
    from bci_bridge.sources.vsend import vsend

    send(TcpSource(_listening(listen, "MURFI's protocol"), "murfi", vsend), sending)


def send_dicom_folder(
    path: Path,
    sending: Sending,
    images: Images,
    *,
    pattern: str,
    is_new_only: bool,
    is_from_start: bool,
) -> None:
    """Send the images that a console exports into a folder.

    Raises:
        UsageError: Nobody said what becomes of the files that are there, or an option
            is out of its range, or the spool cannot be used.
        ScanError: There is no such folder.
        BackendError: pydicom is missing.
    """
    _require("pydicom")
    from bci_bridge.sources.dicom_folder import DicomFolder

    watch = partial(DicomFolder, path, _receiver(images), pattern=pattern)
    send_watched(path, sending, watch, said_of(is_new_only, is_from_start), pattern)


def send_dicom_store(
    listen: str,
    sending: Sending,
    images: Images,
    *,
    title: str,
    callers: tuple[str, ...],
) -> None:
    """Send the images that a console pushes.

    Raises:
        UsageError: Anybody could push, or a title is none.
        ScanError: The port is taken.
        BackendError: pydicom or pynetdicom is missing.
    """
    _require("pynetdicom")
    from bci_bridge.sources.dicom_store import DicomStore, Node

    node = Node(_listening(listen, "DICOM"), title=title, callers=callers)
    store = DicomStore(node, _receiver(images))
    tell(f"DICOM node {title} listens on {store.place}")
    send(store, sending)


def _receiver(images: Images) -> "DicomReceiver":
    from bci_bridge.sources.dicom_receiver import DicomReceiver
    from bci_bridge.sources.series_choice import Choice

    choice = Choice(series=images.series, echo=images.echo)
    return DicomReceiver(choice, os.urandom(16), slices=images.slices)


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise BackendError(
            f"{module}: expected it for DICOM, found none."
            " Install neuroflow-rt[scanner]"
        )


def _is_folder(
    path: Path, of_files: Mapping[str, bool], of_folders: Mapping[str, bool]
) -> bool:
    """Say which it is; refuse options that would be of no effect.

    Args:
        path: What is to be sent; what is not there is refused as a file later.
        of_files: Options that only files have, and whether they are given.
        of_folders: The same of folders.

    Raises:
        UsageError: An option of the other kind is given.
    """
    if not path.exists():
        return False
    is_folder = path.is_dir()
    idle = of_files if is_folder else of_folders
    one, other = ("file", "folder") if is_folder else ("folder", "file")
    for flag, is_given in idle.items():
        if is_given:
            raise UsageError(f"{flag}: expected with a {one} alone, found a {other}")
    return is_folder


def _pace(speed: float | None, *, is_fast: bool) -> float | None:
    if is_fast and speed is not None:
        raise UsageError("--speed and --fast: expected one of them, found both")
    return None if is_fast else 1.0 if speed is None else speed


def _listening(text: str, protocol: str) -> Place:
    """Read where to listen, and warn of what that means."""
    place = place_of(text)
    line = warning(place, protocol)
    if line:
        tell(line)
    return place
