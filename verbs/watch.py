"""`neuroflow watch`: outcomes on the screen as they come."""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from neuroflow_client import (
    Client,
    ClientError,
    GapError,
    RunEnded,
    TrialOutcome,
    Update,
    VolumeOutcome,
)

from runtime.errors import BackendError, UsageError


def watch_server(
    address: str,
    *,
    follow: bool,
    as_json: bool,
    run: str = "",
    key: Path | None = None,
    server_key: Path | None = None,
) -> None:
    """Print outcomes until the run ends.

    Raises:
        BackendError: No server answers, it refuses, the run was aborted, outcomes were
            lost, or a key file is damaged or open to others.
        UsageError: The address is none, or one key file is named without the other.
    """
    if "://" not in address:
        raise UsageError(f"--address: expected tcp://HOST:PORT, found {address!r}")
    if (key is None) != (server_key is None):
        raise UsageError("--key and --server-key: expected both or neither, found one")
    files = [None if file is None else str(file) for file in (key, server_key)]
    try:
        client = Client(
            address,
            run=run,
            follow=follow,
            with_end=True,
            key_file=files[0],
            server_key_file=files[1],
        )
        for outcome in _across_gaps(client, is_last=not follow):
            if isinstance(outcome, RunEnded):
                _end(outcome, is_last=not follow)
            else:
                print(_json(outcome) if as_json else line_of(outcome), flush=True)
    except ClientError as error:
        raise BackendError(str(error)) from error


def _across_gaps(client: Client, *, is_last: bool) -> Iterator[msgspec.Struct]:
    """Say what is lost where it would have come, go on, and fail at the end."""
    lost: list[GapError] = []
    untold: list[GapError] = []
    while True:
        try:
            for outcome in client:
                _tell(untold)
                yield outcome
        except GapError as error:
            _tell(untold)
            if error.last is not None and client.next_index <= error.last:
                raise  # nothing comes after it
            lost.append(error)
            untold.append(error)
            # That a run is gone is the end of it, which tells so, unless more comes.
            if not is_last or error.last is not None:
                _tell(untold)
        else:
            break
    if lost:
        raise (untold or lost)[0]


def _tell(gaps: list[GapError]) -> None:
    for gap in gaps:
        print(f"neuroflow: {gap}", file=sys.stderr, flush=True)
    gaps.clear()


def _end(ended: RunEnded, *, is_last: bool) -> None:
    if not ended.aborted:
        return
    line = (
        f"run {ended.run}: expected its end, found it aborted after "
        f"{ended.count} acquisitions"
    )
    if is_last:
        raise BackendError(line)
    print(f"neuroflow: {line}", file=sys.stderr, flush=True)


def _json(outcome: msgspec.Struct) -> str:
    fields = msgspec.structs.asdict(outcome)
    fields["kind"] = type(outcome).__name__
    fields["arrays"] = sorted(fields["arrays"])
    return msgspec.json.encode(fields).decode()


def line_of(outcome: msgspec.Struct) -> str:
    """Say what came of a volume or trial, and at the end what is to be said of it."""
    if isinstance(outcome, VolumeOutcome):
        answer = "" if outcome.decision is None else f"  {outcome.label or ''}"
        kind = f"{outcome.input} {outcome.timing}"
        why = _why(outcome.reason, outcome.abstention, *outcome.degraded)
        return f"volume {outcome.volume_index:>5}  {kind}{answer}{why}"
    if isinstance(outcome, TrialOutcome):
        sure = "" if outcome.confidence is None else f"  {outcome.confidence:.0%} sure"
        best = outcome.candidates[0].stimulus_id if outcome.candidates else ""
        why = _why(outcome.abstention, *outcome.faults)
        return (
            f"trial {outcome.trial_id:>6}  {outcome.decision} {outcome.label or ''} "
            f"{best}{sure}  {outcome.delay_s:g} s after the onset{why}"
        )
    if isinstance(outcome, Update):
        best = outcome.candidates[0].stimulus_id if outcome.candidates else ""
        after = "" if outcome.delay_s is None else f"  {outcome.delay_s:g} s"
        why = _why(outcome.abstention, *outcome.faults)
        return (
            f"trial {outcome.trial_id:>6}  so far {outcome.label or ''} {best}{after} "
            f"after the onset{why}"
        )
    return type(outcome).__name__


def _why(*reasons: str | None) -> str:
    found = ", ".join(filter(None, reasons))
    return f"  ({found})" if found else ""
