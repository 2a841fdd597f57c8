"""The sources of `neuroflow send`: one command for each way out of a scanner.

Part of the command line (`neuroflow.py`): each function parses, and imports its source
when it is called.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

LatePolicy = Literal["flag", "hold-last", "drop"]

sources = tyro.extras.SubcommandApp()


@dataclass(frozen=True)
class Sending:
    """Of every source: what to announce, and where to send it."""

    run: str
    """Name of the run; a run that is started again is RUN-2, RUN-3, ..."""
    to: str = "tcp://127.0.0.1:5760"
    """The server's address."""
    volumes: int | None = None
    """Acquisitions of the run, discarded ones not counted; a file tells by itself."""
    runs: int = 1
    """End after so many complete runs."""
    discard: int = 0
    """Acquisitions before volume 0, which are not sent."""
    tr_s: float | None = None
    """Repetition time; the source's by default."""
    budget_s: float | None = None
    """Deadline of a volume after its acquisition; one TR by default."""
    updates: bool = False
    """Ask for earlier estimates of trials, while there is time for them."""
    late: LatePolicy = "flag"
    """Of answers after their deadline: flag says so, drop withholds them, hold-last
    repeats the last one of a volume and withholds a trial's."""
    subject: str = ""
    """As in BIDS, like session and task; for the record."""
    session: str = ""
    task: str = ""
    quiet_s: float = 30.0
    """So long without a volume ends the run as aborted."""
    reorder: int = 3
    """Volumes held, for half a TR at most, while an earlier one is awaited."""
    key: Path | None = None
    """This device's key; its role is scanner."""
    server_key: Path | None = None
    """The server's public key, `server.pub`."""
    spool: Path | None = None
    """Folder in which a run survives this process; repeat the command to go on."""
    rehearsal: bool = False
    """Say in the run's frozen configuration that nobody lay in the scanner."""


Common = Annotated[Sending, tyro.conf.arg(name="")]


@sources.command
def nifti(
    path: tyro.conf.Positional[Path],
    /,
    *,
    speed: float | None = None,
    fast: bool = False,
    pattern: str | None = None,
    first_number: int | None = None,
    new_only: bool = False,
    from_start: bool = False,
    sending: Common,
) -> None:
    """Send a recorded 4-D NIfTI file, or a folder that fills with 3-D ones.

    Args:
        path: A .nii or .nii.gz file, or a folder.
        speed: Of a file; 1, real time, by default; 10 is ten times faster.
        fast: Of a file; as fast as the server acknowledges, without deadlines.
        pattern: Of the names of a folder's files; all by default.
        first_number: Number of a folder's first acquisition in its name; 0 or 1,
            whichever comes, by default.
        new_only: Leave out the files that are in a folder already.
        from_start: Send the files that are in a folder already, too.
        sending: What all sources have.
    """
    from verbs.send import send_nifti

    send_nifti(
        path,
        sending,
        speed=speed,
        is_fast=fast,
        pattern=pattern,
        first_number=first_number,
        is_new_only=new_only,
        is_from_start=from_start,
    )


@sources.command
def philips(
    path: tyro.conf.Positional[Path],
    /,
    *,
    speed: float | None = None,
    fast: bool = False,
    scaling: Literal["dv", "fp", "pv"] = "dv",
    new_only: bool = False,
    from_start: bool = False,
    sending: Common,
) -> None:
    """Send Philips PAR/REC: the folder of a session, or one pair that holds a run.

    Args:
        path: A folder, in which or in whose folders pairs come; or a .par file.
        speed: Of a file; 1, real time, by default; 10 is ten times faster.
        fast: Of a file; as fast as the server acknowledges, without deadlines.
        scaling: Displayed, floating point or stored values.
        new_only: Leave out the pairs that are in a folder already.
        from_start: Send the pairs that are in a folder already, too.
        sending: What all sources have.
    """
    from verbs.send import send_philips

    send_philips(
        path,
        sending,
        speed=speed,
        is_fast=fast,
        scaling=scaling,
        is_new_only=new_only,
        is_from_start=from_start,
    )


@sources.command
def pyneal(
    *,
    listen: str = "127.0.0.1:5555",
    sending: Common,
) -> None:
    """Take Pyneal's place: hear what unmodified Pyneal Scanner adapters send.

    Args:
        listen: HOST:PORT; HOST is the number of one interface of this machine.
        sending: What all sources have.
    """
    from verbs.send import send_pyneal

    send_pyneal(listen, sending)


@sources.command
def mrd(
    *,
    listen: str = "127.0.0.1:9002",
    position: Literal["centre", "corner"] = "centre",
    sending: Common,
) -> None:
    """Hear ISMRMRD (MRD) images, as Siemens FIRE and Gadgetron send them.

    Args:
        listen: HOST:PORT; HOST is the number of one interface of this machine.
        position: What an image's position is: that of its centre, or of its first
            voxel.
        sending: What all sources have.
    """
    from verbs.send import send_mrd

    send_mrd(listen, position, sending)


@sources.command
def afni(
    *,
    like: Path,
    listen: str = "127.0.0.1:53214",
    sending: Common,
) -> None:
    """Hear AFNI's real-time plugin, which has registered the volumes already.

    Args:
        like: A NIfTI file of AFNI's grid; where AFNI sends a mask's voxels, that mask.
        listen: HOST:PORT; HOST is the number of one interface of this machine.
        sending: What all sources have; AFNI tells no TR.
    """
    from verbs.send import send_afni

    send_afni(listen, like, sending)


@sources.command
def vsend(
    *,
    listen: str = "127.0.0.1:15000",
    sending: Common,
) -> None:
    """Hear MURFI's scanner protocol: Siemens' vSend, and MURFI's own simulators.

    Args:
        listen: HOST:PORT; HOST is the number of one interface of this machine.
        sending: What all sources have.
    """
    from verbs.send import send_vsend

    send_vsend(listen, sending)


@sources.command
def trigger(
    device: tyro.conf.Positional[str],
    /,
    *,
    run: str,
    to: str = "tcp://127.0.0.1:5760",
    runs: int | None = None,
    discard: int = 0,
    every: int = 1,
    tr_s: float | None = None,
    quiet_s: float = 5.0,
    pulse_key: str = "5",
    pulse_byte: int | None = None,
    baud: int = 115_200,
    marker: str = "",
    key: Path | None = None,
    server_key: Path | None = None,
) -> None:
    """Put the scanner's pulses on record, beside a source that sends the volumes.

    Args:
        device: `keyboard`, `serial:PORT` or `lsl:STREAM`.
        run: Name of the run, as the source announces it; its repetitions are followed.
        to: The server's address.
        runs: End after so many runs; go on until stopped by default.
        discard: Acquisitions before volume 0, as for the source.
        every: Pulses of an acquisition.
        tr_s: Number pulses by their time, so that a lost one shifts nothing.
        quiet_s: After so long without a pulse counting begins anew.
        pulse_key: The key that is a pulse.
        pulse_byte: The byte of the serial port that is a pulse; any by default.
        baud: Of the serial port.
        marker: The LSL sample that is a pulse; any by default.
        key: This device's key; its roles are stimulus and scanner.
        server_key: The server's public key, `server.pub`.
    """
    from verbs.send_trigger import send_trigger

    send_trigger(
        device,
        to,
        run=run,
        runs=runs,
        discard=discard,
        every=every,
        tr_s=tr_s,
        quiet_s=quiet_s,
        pulse_key=pulse_key,
        pulse_byte=pulse_byte,
        baud=baud,
        marker=marker,
        key=key,
        server_key=server_key,
    )


@dataclass(frozen=True)
class Images:
    """Of every source of DICOM images: which of them are decoded."""

    series: tuple[str, ...] = ()
    """Numbers or patterns of descriptions; the functional series by default."""
    echo: int = 1
    """Of several, the one that is decoded."""
    slices: int | None = None
    """In a volume, where images hold one slice and do not say."""


Which = Annotated[Images, tyro.conf.arg(name="")]


@sources.command
def dicom_folder(
    path: tyro.conf.Positional[Path],
    /,
    *,
    pattern: str = "*",
    new_only: bool = False,
    from_start: bool = False,
    images: Which,
    sending: Common,
) -> None:
    """Send the DICOM images that a console exports into a folder.

    Args:
        path: The folder, or that of the day: folders in it are looked into.
        pattern: Of the files' names, of any case.
        new_only: Leave out the files that are there already.
        from_start: Send the files that are there already, too.
        images: What all sources of images have.
        sending: What all sources have.
    """
    from verbs.send import send_dicom_folder

    send_dicom_folder(
        path,
        sending,
        images,
        pattern=pattern,
        is_new_only=new_only,
        is_from_start=from_start,
    )


@sources.command
def dicom_store(
    *,
    listen: str = "127.0.0.1:11112",
    title: str = "NEUROFLOW",
    callers: tuple[str, ...] = (),
    images: Which,
    sending: Common,
) -> None:
    """Send the DICOM images that a console pushes here (C-STORE).

    Args:
        listen: HOST:PORT; HOST is the number of one interface of this machine.
        title: Application entity title of this service.
        callers: Application entity titles that may push; needed beyond loopback.
        images: What all sources of images have.
        sending: What all sources have.
    """
    from verbs.send import send_dicom_store

    send_dicom_store(listen, sending, images, title=title, callers=callers)
