"""`neuroflow serve`: the live system, until it is told to stop."""

import contextlib
import functools
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from bci_bridge.endpoints import beside, check_address
from bci_bridge.header import LatePolicy
from bci_bridge.keyfolder import read_allow_list, read_key_pair
from bci_bridge.keyring import SERVER
from bci_bridge.outcomes import VolumeOutcome
from bci_bridge.places import INPUTS, require_segments_alone
from bci_bridge.recorder import SEGMENT_BYTES
from bci_bridge.recording_folder import check_room, has_begun
from bci_bridge.settings import Endpoints, ServeConfig, ServeReport
from bci_bridge.signals import stop_on_signals
from bci_bridge.supervisor import serve_supervised
from bci_bridge.telling import tell
from runtime.bundle import require_live
from runtime.engine import Precision, Wait, Waiting
from runtime.errors import ArtifactError, BackendError, UsageError
from runtime.estimator import told_confounds
from runtime.held_folder import HeldFolder
from runtime.overlay import require_overlay
from runtime.signing_keys import folder_signer, read_trust
from verbs.limits import with_limits
from verbs.measured_choice import AUTO, IN_CASE_OF_FAILURE, measured_choice
from verbs.rehearse import Rehearsal, rehearsal_of
from verbs.rig import rig_here
from verbs.served_model import Model
from verbs.sign_recording import sign_at_end, signer_at_start


def serve_bundle(
    bundle: Path,
    gallery: Path,
    *,
    overlay: Path | None = None,
    address: str,
    keys: Path | None,
    backend: str,
    threads: int | None,
    abstain_below: float,
    log: Path | None,
    health: str | None,
    free_mb: int,
    ready_file: Path | None,
    trust: tuple[Path, ...],
    is_urgent: bool = True,
    rehearse: Path | None = None,
    subject: str | None = None,
    speed: float | None = None,
    updates: bool = False,
    late: LatePolicy | None = None,
    rehearse_key: Path | None = None,
    sign_recording: Path | None = None,
    precision: Precision | None = None,
    wait: Wait = "block",
    keep_warm: bool = False,
    limits: tuple[str, ...] = (),
    on_hearing: Callable[[], None] = lambda: None,
) -> None:
    """Open everything, then serve until told to stop, or a rehearsal's end.

    From the call of `on_hearing` on, these end it in order; before it they interrupt.

    Raises:
        BundleError: The bundle, gallery or overlay is not what its manifest lists, is
            not signed by a key that is trusted, they do not belong together, or the
            bundle cannot be served.
        BackendError: The engine or a port cannot be had, the rehearsal failed, or
            acquisitions were left without an outcome.
        UsageError: Fewer than one thread, a confidence outside 0 to 1, an address or
            limit that is not allowed, too little room for the recording, or flags of
            a rehearsal or of a backend that do not fit.
        ArtifactError: A key file is missing, damaged or open to others, or there is no
            place for private copies.
        RecordingError: The recording cannot be signed.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads: expected at least 1, found {threads}")
    if free_mb < 0:
        raise UsageError(f"--free-mb: expected 0 or more, found {free_mb}")
    if not 0 <= abstain_below <= 1:
        raise UsageError(f"--abstain-below: expected 0 to 1, found {abstain_below:g}")
    if precision is not None and backend == AUTO:
        raise UsageError(
            f"--precision: expected another backend than auto, which takes one itself, "
            f"found {precision}"
        )
    waiting = waiting_of(backend, wait, is_kept_warm=keep_warm)

    def ready(endpoints: Endpoints) -> None:
        trouble(f"serving at {endpoints.address}")
        if endpoints.health:
            trouble(f"health at {endpoints.health}")
        if ready_file is not None:
            _write_whole(ready_file, msgspec.json.encode(endpoints))
        if rehearsal is not None:
            rehearsal.begin(endpoints.address, told)

    def trouble(line: str) -> None:
        tell(f"neuroflow: {line}")

    config = ServeConfig(
        address=address,
        publish=beside(address),
        replay=beside(address),
        keys=None if keys is None else str(keys.resolve()),
        recording=None if log is None else str(log.resolve()),
        health=health,
        free_mb=free_mb,
        is_urgent=is_urgent,
    )
    config = with_limits(config, limits)
    # Before the engines are loaded, which takes long.
    check_address(config.address, has_keys=keys is not None)
    if log is not None:
        require_segments_alone(log)
    if log is not None and not has_begun(log / INPUTS):
        # Of both logs one segment; the recorder looks again, but after the engines.
        check_room(log, 2 * SEGMENT_BYTES)
    if keys is not None:
        read_key_pair(keys / f"{SERVER}.key")
        read_allow_list(keys)
    rehearsal = rehearsal_of(
        rehearse,
        subject=subject,
        speed=speed,
        updates=updates,
        late=late,
        key=rehearse_key,
        keys=keys,
        on_line=trouble,
    )
    vouching = signer_at_start(sign_recording, log)
    told: tuple[str, ...] = ()
    trusted = read_trust(trust) if trust else None
    opened = (bundle, gallery) if overlay is None else (bundle, gallery, overlay)
    for folder in opened:
        if signer := folder_signer(folder, trusted):
            trouble(f"{folder}: {signer}")
        if folder == bundle:
            told = told_confounds(require_live(bundle))
            if told:
                trouble(
                    f"{bundle}: asks for confounds with every volume: "
                    f"{', '.join(told)}. play --confounds tells them; send tells none, "
                    "and its runs are refused"
                )
        if folder == overlay:
            require_overlay(bundle, overlay)
    _allow_many_connections()
    precision = precision or "f32"
    behind = tuple(name for name in IN_CASE_OF_FAILURE if name != backend)
    with contextlib.ExitStack() as stack:
        # The workers share one copy, which goes with this process, however it ends.
        copies = stack.enter_context(HeldFolder()) / "copies"
        copies.mkdir(mode=0o700)
        if backend == AUTO:
            choice = measured_choice(
                bundle, trust=trusted, threads=threads, copies=copies
            )
            for reason in choice.reasons:
                trouble(f"auto: {reason}")
            backend, precision, behind = (
                choice.backend,
                choice.precision,
                choice.behind,
            )
        model = Model(
            bundle=str(bundle.resolve()),
            gallery=str(gallery.resolve()),
            overlay=None if overlay is None else str(overlay.resolve()),
            backend=backend,
            precision=precision,
            behind=behind,
            waiting=waiting,
            threads=threads,
            abstain_below=abstain_below,
            copies=str(copies),
            trust=trusted,
            rig=rig_here(
                backend,
                threads=threads,
                abstain_below=abstain_below,
                precision=precision,
            ),
        )
        told_json = msgspec.json.encode(model).decode()
        worker = [sys.executable, "-m", "verbs.worker", told_json]
        is_told = is_over = stack.enter_context(stop_on_signals())
        on_hearing()
        if rehearsal is not None:
            stack.callback(rehearsal.close)
            is_over = functools.partial(_is_over, rehearsal, is_told)
        report = serve_supervised(config, worker, is_over, ready, on_trouble=trouble)
    trouble(
        f"{report.runs} runs, {_counted(report)}, "
        f"{sum(report.rejected.values())} messages refused, log {report.recording}"
    )
    if sign_recording is not None and log is not None and vouching is not None:
        trouble(sign_at_end(sign_recording, log, vouching))
    kept = "lost" if log is None else f"on record in {log}: serve on it again"
    if report.unanswered:
        raise BackendError(
            "serve: expected an outcome for every acquisition of the last run, found "
            f"{report.unanswered} without; they are {kept}"
        )
    if report.lacks_end:
        raise BackendError(
            "serve: expected the end of the last run among its outcomes, found none, "
            f"and maybe trials without theirs; they are {kept}"
        )
    if rehearsal is not None:
        rehearsal.require_success(report)


def _counted(report: ServeReport) -> str:
    """Say how many outcomes there were, and how many of no volume that was used."""
    said = {kind: f"{n} {kind}" for kind, n in sorted(report.outcomes.items())}
    unused = ", ".join(f"{n} {which}" for which, n in sorted(report.unused.items()))
    if unused:
        said[VolumeOutcome.__name__] += f" ({unused})"
    return ", ".join(said.values()) or "no outcomes"


def waiting_of(backend: str, wait: Wait, *, is_kept_warm: bool) -> Waiting | None:
    """Return how TensorRT is to wait; None for a backend that has no such choice.

    Raises:
        UsageError: Something was chosen for another backend.
    """
    if backend == "tensorrt":
        return Waiting(wait, is_kept_warm)
    chosen = {"--wait spin": wait == "spin", "--keep-warm": is_kept_warm}
    for flag in [name for name, is_chosen in chosen.items() if is_chosen]:
        raise UsageError(
            f"{flag}: expected --backend tensorrt, which waits for a GPU, "
            f"found {backend}"
        )
    return None


def _is_over(rehearsal: Rehearsal, is_told: Callable[[], bool]) -> bool:
    return rehearsal.is_over(is_told=is_told())


def _allow_many_connections() -> None:
    # 200 idle connections against a limit of 128 lock a scanner out (reliability.md 1).
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _write_whole(file: Path, data: bytes) -> None:
    # Whoever waits for this file must never see half of it.
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(
            f"{file}: expected a place to write, found {error.strerror}"
        ) from error
