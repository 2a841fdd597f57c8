"""The verbs of a rig: what runs while a person lies in the scanner, and its keys.

Part of the command line (`neuroflow.py`): each function parses, and imports its verb
when it is called.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

Backend = Literal["ort", "openvino", "ort_cuda", "tensorrt"]
ServeBackend = Literal["ort", "openvino", "ort_cuda", "tensorrt", "auto"]
ServePrecision = Literal["f32", "f16", "bf16", "int8", "fp8"]
ServeWait = Literal["block", "spin"]
KeyAction = Literal["make", "list", "revoke"]
LatePolicy = Literal["flag", "hold-last", "drop"]
Role = Literal["scanner", "stimulus", "observer", "operator"]


def sign(
    folders: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    *,
    key: Path | None = None,
    make_key: Path | None = None,
) -> None:
    """Sign bundles, galleries and overlays, so that a server can tell who made them.

    Args:
        folders: Bundles, galleries, overlays; each is checked, and gets a signature.
        key: The signer's NAME.key.
        make_key: Make a signer's NAME.key, and the NAME.pub by which others know it.
    """
    from verbs.sign import sign_folders

    sign_folders(folders, key=key, make_key=make_key)


def serve(
    *,
    bundle: Path,
    gallery: Path,
    overlay: Path | None = None,
    address: str = "tcp://127.0.0.1:5760",
    keys: Path | None = None,
    backend: ServeBackend = "ort",
    precision: ServePrecision | None = None,
    wait: ServeWait = "block",
    keep_warm: bool = False,
    threads: int | None = None,
    abstain_below: float = 0.0,
    log: Path | None = None,
    health: str | None = None,
    free_mb: int = 2048,
    ready_file: Path | None = None,
    trust: tyro.conf.UseAppendAction[tuple[Path, ...]] = (),
    urgent: bool = True,
    rehearse: Path | None = None,
    subject: str | None = None,
    speed: float | None = None,
    updates: bool = False,
    late: LatePolicy | None = None,
    rehearse_key: Path | None = None,
    sign_recording: Path | None = None,
    limit: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
) -> None:
    """Decode what a scanner sends, and answer everyone who listens, until stopped.

    Args:
        bundle: What `export` wrote.
        gallery: What retrieval chooses from.
        overlay: What `calibrate` wrote today; the bundle as it is by default.
        address: Where scanner, stimulus software and clients connect.
        keys: Folder of keys (see `keys`); needed for all addresses but loopback.
        backend: Engine library; auto measures, and takes the fastest that is right.
        precision: Of the arithmetic; f32 by default, and auto takes one itself.
        wait: With tensorrt: asleep, or spinning on a core of its own.
        keep_warm: With tensorrt: repeat the flow between volumes, so that the GPU keeps
            its clocks.
        threads: Threads of one evaluation; the library chooses by default.
        abstain_below: Confidence under which the decision is ABSTAIN.
        log: Folder for the recording of all that came in and went out.
        health: Loopback HOST:PORT of health and metrics over HTTP; off by default.
        free_mb: Room under which the log's disk makes the server not ready.
        ready_file: Written with the addresses in use once everything is ready.
        trust: NAME.pub or a folder of them; all must be signed by one of these.
        urgent: Run before all other programs, where the system allows it.
        rehearse: Play this recording (a BIDS or Haxby folder) as the scanner, then end.
        subject: Of the rehearsal: whose runs, of several participants.
        speed: Of the rehearsal; 1, real time, by default.
        updates: Of the rehearsal: ask for earlier estimates of trials.
        late: Of the rehearsal: what becomes of late answers, as of `play`.
        rehearse_key: The player's NAME.key, with --keys; its roles are scanner and
            stimulus.
        sign_recording: A signer's NAME.key (see `sign`), by which the log is signed
            when the server ends.
        limit: NAME=NUMBER, a limit of memory_mb (of each process that meets peers),
            worker_memory_mb (of each worker), rate_per_s or burst (of what a peer may
            send).
    """
    from verbs.ending import until_stopped
    from verbs.serve import serve_bundle

    def serve_until(hearing: Callable[[], None]) -> None:
        serve_bundle(
            bundle,
            gallery,
            overlay=overlay,
            address=address,
            keys=keys,
            backend=backend,
            threads=threads,
            abstain_below=abstain_below,
            log=log,
            health=health,
            free_mb=free_mb,
            ready_file=ready_file,
            trust=trust,
            is_urgent=urgent,
            rehearse=rehearse,
            subject=subject,
            speed=speed,
            updates=updates,
            late=late,
            rehearse_key=rehearse_key,
            sign_recording=sign_recording,
            precision=precision,
            wait=wait,
            keep_warm=keep_warm,
            limits=limit,
            on_hearing=hearing,
        )

    until_stopped(serve_until)


def prepare_calibration(
    *,
    bundle: Path,
    gallery: Path,
    out: Path,
    pictures: Path | None = None,
    images: tuple[str, ...] = (),
    backend: Backend = "ort",
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Predict the response to images before the day, so that `calibrate` is quick.

    Args:
        bundle: What `export` wrote.
        gallery: What retrieval will choose from.
        out: Folder of the predictions; one that was interrupted is gone on with.
        pictures: A BIDS folder whose pictures count, too.
        images: Which images, by name; all of both by default.
        backend: Engine library.
        threads: Threads of one evaluation; the library chooses by default.
        json: Print JSON.
    """
    from verbs.prepare_calibration import prepare_calibration_images

    prepare_calibration_images(
        bundle,
        gallery,
        out,
        pictures=pictures,
        images=images,
        backend=backend,
        threads=threads,
        as_json=json,
    )


def calibrate(
    *,
    bundle: Path,
    gallery: Path,
    recording: Path,
    out: Path,
    runs: tuple[str, ...] = (),
    pictures: Path | None = None,
    predictions: Path | None = None,
    label: str = "",
    sign: Path | None = None,
    backend: Backend = "ort",
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Fit a bundle to today by trials of known images, or say that nothing gains.

    Args:
        bundle: What `export` wrote.
        gallery: What retrieval will choose from.
        recording: Today's trials: a BIDS folder, or what `serve --log` wrote.
        out: Folder of the overlay; must not exist.
        runs: Which runs, by name; all of them by default.
        pictures: A BIDS folder whose pictures count, too; a log has none.
        predictions: What `prepare-calibration` wrote; by default predictions are made
            now, an evaluation of the flow an image.
        label: The day or session; the date by default.
        sign: A signer's NAME.key (see `sign`), by which the overlay is signed.
        backend: Engine library.
        threads: Threads of one evaluation; the library chooses by default.
        json: Print JSON.
    """
    from verbs.calibrate import calibrate_day

    calibrate_day(
        bundle,
        gallery,
        recording,
        out,
        runs=runs,
        pictures=pictures,
        predictions=predictions,
        label=label,
        sign=sign,
        backend=backend,
        threads=threads,
        as_json=json,
    )


def play(
    recording: tyro.conf.Positional[Path],
    /,
    *,
    to: str = "tcp://127.0.0.1:5760",
    runs: tuple[str, ...] = (),
    subject: str | None = None,
    speed: float = 1.0,
    fast: bool = False,
    label: str = "",
    key: Path | None = None,
    server_key: Path | None = None,
    spool: Path | None = None,
    confounds: tuple[str, ...] = (),
    updates: bool = False,
    late: LatePolicy = "flag",
    rehearsal: bool = False,
) -> None:
    """Play a recording into a server as a scanner would, events included.

    Args:
        recording: A BIDS folder or a Haxby folder.
        to: The server's address.
        runs: Which runs, by name; all of them by default.
        subject: Whose runs, where the folder has several participants (01 or sub-01).
        speed: 1 is real time, 10 ten times faster.
        fast: As fast as the server acknowledges; no deadlines.
        label: Added to the runs' names, so that a run can be played twice.
        key: This device's key; its roles are scanner and, for events, stimulus.
        server_key: The server's public key, `server.pub`.
        spool: Folder in which a run survives this process; repeat the command to go on.
        confounds: Columns of `_desc-confounds_timeseries.tsv` that go with each volume.
        updates: Ask for earlier estimates of trials, while there is time for them.
        late: Of answers after their deadline: flag says so, drop withholds them,
            hold-last repeats the last one of a volume and withholds a trial's.
        rehearsal: Say in the runs' frozen configuration that nobody lay in the scanner.
    """
    from verbs.play import play_recording

    play_recording(
        recording,
        to,
        runs=runs,
        subject=subject,
        speed=None if fast else speed,
        label=label,
        key=key,
        server_key=server_key,
        spool=spool,
        is_rehearsal=rehearsal,
        confounds=confounds,
        updates=updates,
        late=late,
    )


def watch(
    *,
    address: str = "tcp://127.0.0.1:5760",
    run: str = "",
    follow: bool = False,
    json: bool = False,
    key: Path | None = None,
    server_key: Path | None = None,
) -> None:
    """Print the outcomes of a server's run as they come.

    Args:
        address: The server's address.
        run: Name of a run to come, or of the last two, which the server keeps; without
            it the one under way, or else the next one.
        follow: Go on with the next run instead of ending.
        json: One JSON object a line.
        key: This device's key; its role is observer.
        server_key: The server's public key, `server.pub`.
    """
    from verbs.watch import watch_server

    watch_server(
        address, run=run, follow=follow, as_json=json, key=key, server_key=server_key
    )


def keys(
    action: tyro.conf.Positional[KeyAction],
    /,
    *,
    folder: Path,
    name: str | None = None,
    roles: tuple[Role, ...] = (),
    json: bool = False,
) -> None:
    """Make, list and revoke the keys of the devices that may speak with a server.

    Args:
        action: What to do.
        folder: The server's folder of keys; its secrets never leave it.
        name: The device; without it, `make` makes the server's own key.
        roles: What the device may say; an operator may say everything.
        json: Print the list as JSON.
    """
    from verbs.keys import manage_keys

    manage_keys(action, folder, name=name, roles=roles, as_json=json)


def doctor(
    *,
    address: str = "tcp://127.0.0.1:5760",
    log: Path | None = None,
    keys: Path | None = None,
    dicom_folder: Path | None = None,
    dicom_listen: str | None = None,
    json: bool = False,
) -> None:
    """Say what this rig has and what to fix; status 1 if there is a problem.

    Args:
        address: Where a server shall listen: is the port free?
        log: Folder of a recording: is there room, and how fast is the disk?
        keys: Folder of keys: are they there, and closed to others?
        dicom_folder: Where a console exports images: what is in it, and is it read?
        dicom_listen: HOST:PORT to which a console shall push: is the port free?
        json: Print JSON.
    """
    from verbs.doctor import examine_rig

    examine_rig(
        address=address,
        log=log,
        keys=keys,
        as_json=json,
        images=dicom_folder,
        listen=dicom_listen,
    )
