"""What `neuroflow doctor` reads of a console's images: what is in the folder now.

Leaves nothing behind, and takes nothing from anybody: a folder is only read.
"""

import importlib.util
import os
import time
from pathlib import Path
from typing import Final

from bci_bridge.sources.listening import place_of
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError
from verbs.checkup import ImageFacts

MODULES: Final = ("pydicom", "pynetdicom")
PATIENCE_S: Final = 3.0
"""Files that are whole are found within a few looks."""


def image_facts(folder: Path | None, listen: str | None) -> ImageFacts | None:
    """Look at where a console's images come; None where nothing was named.

    Raises:
        UsageError: The place to listen is malformed.
    """
    if folder is None and listen is None:
        return None
    missing = tuple(name for name in MODULES if importlib.util.find_spec(name) is None)
    address = "" if listen is None else f"tcp://{place_of(listen)}"
    if folder is None or missing:
        return ImageFacts(missing=missing, address=address)
    trouble, volume, left_out = _first_volume(folder)
    return ImageFacts(
        missing=missing,
        folder=str(folder),
        trouble=trouble,
        volume=volume,
        left_out=left_out,
        address=address,
    )


def _first_volume(folder: Path) -> tuple[str, str, str]:
    from bci_bridge.sources.dicom_folder import DicomFolder
    from bci_bridge.sources.dicom_receiver import DicomReceiver
    from bci_bridge.sources.series_choice import Choice

    receiver = DicomReceiver(Choice(), os.urandom(16))
    left_out = ""
    try:
        source = DicomFolder(folder, receiver)
        end_s = time.monotonic() + PATIENCE_S
        while (left_s := end_s - time.monotonic()) > 0:
            arrival = source.poll(min(left_s, 0.1))
            if isinstance(arrival, ScannedVolume):
                return "", _words(arrival), left_out
            if isinstance(arrival, Refused):
                left_out = f"{arrival.what}: {arrival.why}"
    except ScanError as error:
        return str(error), "", left_out
    return "", "", left_out


def _words(volume: ScannedVolume) -> str:
    sides = " x ".join(map(str, volume.geometry.shape))
    has_times = volume.geometry.slice_times_s is not None
    times = "slice times" if has_times else "no slice times"
    series = int(volume.series.partition("-")[0])
    return f"series {series}: {sides} voxels, TR {volume.geometry.tr_s:g} s, {times}"
