"""A bundle served and runs played into it: one live, then all faster than real time."""

from collections.abc import Sequence
from pathlib import Path

from neuroflow_client import TrialOutcome, VolumeOutcome

from runtime.recording import RecordedRun
from verbs.demo.played import PlayedRun, play_run, require_same_answers
from verbs.demo.processes import child, wait_until_ready
from verbs.progress import Screen


def serve_and_play(
    out: Path,
    folder: Path,
    live: Sequence[RecordedRun],
    fast: Sequence[RecordedRun],
    *,
    backend: str,
    speed: float,
    shown: Screen,
) -> list[PlayedRun]:
    """Serve ``out/bundle`` with ``out/gallery`` and play runs of a recording into it.

    Every live run is played again at full speed, and its answers must be equal.

    Args:
        out: The demonstration's folder.
        folder: The recording.
        live: Runs that come at the TR.
        fast: Further runs, at full speed only.
        backend: Engine library.
        speed: Of the live runs; 1 is real time.
        shown: The screen.

    Raises:
        PeerError: Outcomes are lost, or live and fast answers differ.
    """
    ready, log = out / "server.json", out / "server.log"
    arguments = ["serve", "--bundle", str(out / "bundle")]
    arguments += ["--gallery", str(out / "gallery"), "--address", "tcp://127.0.0.1:*"]
    arguments += ["--backend", backend, "--threads", "1"]
    arguments += ["--log", str(out / "log"), "--ready-file", str(ready)]
    played: list[PlayedRun] = []
    with child(log, *arguments) as server:
        address = wait_until_ready(server, ready, log).address

        def play(run: RecordedRun, speed: float | None) -> PlayedRun:
            listener = _Listener(run, shown) if speed is not None else _silent
            return play_run(
                run,
                folder,
                address,
                label="fast" if speed is None else "live",
                speed=speed,
                log=out / "player.log",
                on_outcome=listener,
            )

        for run in live:
            shown.stage(
                f"live: {run.run_id}, {run.volume_count} volumes at a TR of "
                f"{run.tr_s / speed:g} s, answered as they arrive"
            )
            played.append(play(run, speed))
        total = sum(run.volume_count for run in (*live, *fast))
        shown.stage(f"the same, and {len(fast)} more runs, faster than real time")
        for run in (*live, *fast):
            played.append(play(run, None))
            done = sum(len(one.volumes) for one in played if not one.is_live)
            shown.count(done, total)
    again = [one for one in played if not one.is_live]
    compared = sum(
        require_same_answers(one, other)
        for one, other in zip(played[: len(live)], again, strict=False)
    )
    shown.say(f"live and fast agree bit for bit in {compared} answers")
    return played


def _silent(_outcome: VolumeOutcome | TrialOutcome) -> None:
    """Show nothing of a run at full speed."""


class _Listener:
    """Shows a live run as it happens."""

    def __init__(self, run: RecordedRun, shown: Screen) -> None:
        self._run, self._shown, self._volumes = run, shown, 0

    def __call__(self, outcome: VolumeOutcome | TrialOutcome) -> None:
        """Count a volume; say what a trial's answer is."""
        if isinstance(outcome, VolumeOutcome):
            self._volumes += 1
            self._shown.count(self._volumes, self._run.volume_count)
        elif outcome.candidates:
            self._say(outcome)

    def _say(self, outcome: TrialOutcome) -> None:
        seen = next(e for e in self._run.events if e.trial_id == outcome.trial_id)
        best = outcome.candidates[0]
        mark = "=" if best.stimulus_id == seen.stimulus_id else " "
        sure = "" if outcome.confidence is None else f" ({outcome.confidence:.0%} sure)"
        self._shown.say(
            f"{mark} shown {seen.trial_type} {seen.stimulus_id}, decoded {best.label} "
            f"{best.stimulus_id}{sure}, {outcome.delay_s:g} s after the onset"
        )
