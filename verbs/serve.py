"""`neuroflow serve`: the live system, until it is told to stop."""

import os
import sys
from pathlib import Path

import msgspec

from bci_bridge.server import Endpoints, ServeConfig, serve, stop_on_signals
from runtime.errors import ArtifactError, UsageError
from runtime.live import open_decoder


def serve_bundle(
    bundle: Path,
    gallery: Path,
    *,
    address: str,
    backend: str,
    threads: int | None,
    abstain_below: float,
    log: Path | None,
    ready_file: Path | None,
) -> None:
    """Open everything, then serve until SIGTERM or SIGINT.

    Raises:
        BundleError: The bundle or gallery is not what its manifest lists.
        BackendError: The engine or a port cannot be had.
        UsageError: Fewer than one thread, or a confidence outside 0 to 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads: expected at least 1, found {threads}")
    if not 0 <= abstain_below <= 1:
        raise UsageError(f"--abstain-below: expected 0 to 1, found {abstain_below:g}")

    def ready(endpoints: Endpoints) -> None:
        print(f"neuroflow: serving at {endpoints.address}", file=sys.stderr, flush=True)
        if ready_file is not None:
            _write_whole(ready_file, msgspec.json.encode(endpoints))

    config = ServeConfig(
        address=address, recording=None if log is None else str(log.resolve())
    )
    with (
        stop_on_signals() as stop,
        open_decoder(
            bundle,
            gallery,
            backend=backend,
            threads=threads,
            abstain_below=abstain_below,
        ) as decoder,
    ):
        report = serve(config, decoder, stop, ready)
    outcomes = ", ".join(f"{n} {kind}" for kind, n in sorted(report.outcomes.items()))
    print(
        f"neuroflow: {report.runs} runs, {outcomes or 'no outcomes'}, "
        f"{sum(report.rejected.values())} messages refused, log {report.recording}",
        file=sys.stderr,
    )


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
