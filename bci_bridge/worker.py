"""Decoder actions to outcomes: the one place where the decoder is called.

Pure but for the clock that it is given: no socket, no file. It sees to it that every
acquisition and every trial gets exactly one final outcome, whatever the decoder says,
and that a decoder which cannot use a volume costs that volume only.

What is on record already, because another worker answered it before it died, is never
answered again: the decoder only learns what it must know of it to go on.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from msgspec import UNSET

from bci_bridge.actions import AddTrial, AddVolume, EndRun, SkipVolume
from bci_bridge.arrays import bytes_from_arrays, volume_from
from bci_bridge.configuration import Configuration
from bci_bridge.decoder import Decoder, geometry_from
from bci_bridge.ended import RecordedEndError, end_by, ended_in
from bci_bridge.header import MAX_TEXT
from bci_bridge.lateness import Lateness
from bci_bridge.messages import Event, RigNote, RunStart, Volume
from bci_bridge.outcomes import (
    Outcome,
    RunEnded,
    Timing,
    TrialOutcome,
    Update,
    VolumeOutcome,
)
from bci_bridge.record import Record, said_in
from runtime.answers import (
    Answer,
    Trial,
    TrialReport,
)
from runtime.errors import NeuroFlowError

Outgoing = tuple[Outcome, bytes]
"""An outcome without its index and instant of publication, and its payload."""


class Worker:
    """One decoder, and the accounts of the run that it is in.

    Attributes:
        configuration: What the run is done with; None before the first.
    """

    def __init__(
        self,
        decoder: Decoder,
        clock_ns: Callable[[], int],
        rig: RigNote | None = None,
    ) -> None:
        self._decoder, self._clock_ns, self._rig = decoder, clock_ns, rig
        self._run: RunStart | None = None
        self.configuration: Configuration | None = None
        self._configuration_sha256 = self._ended = ""
        self._open: dict[str, Event] = {}
        self._last_volume, self._is_end_said = -1, False
        self._late = Lateness()
        self._record = Record()

    def start(
        self, start: RunStart, record: Record | None = None, cited_sha256: str = ""
    ) -> None:
        """Begin the accounts of a run, and make the decoder ready for it.

        A run that the decoder cannot begin has outcomes too: each of its acquisitions
        is INVALID, and says why.

        Args:
            start: The run.
            record: What is answered already; may grow while the run goes on.
            cited_sha256: The configuration that a recording of the run cites; maybe an
                earlier version froze it.
        """
        self._run, self._record = start, Record() if record is None else record
        self._open, self._ended, self._is_end_said = {}, "", False
        frozen = Configuration.of(start, self._decoder, self._rig)
        self.configuration = frozen.as_cited(cited_sha256)
        self._configuration_sha256 = self.configuration.sha256
        self._last_volume, self._late = -1, Lateness(start.late)
        try:
            self._decoder.start_run(geometry_from(start))
        except Exception as error:
            self._why(error, is_begun=False)

    def add_trial(self, action: AddTrial) -> list[Outgoing]:
        """Pass a presentation on; one that the decoder refuses is answered at once.

        Where the decoder has just ended, it is refused with the next acquisition, whose
        outcome is the first to say so: what rests on no input could not be replayed.
        """
        event = action.record
        self._open[event.trial_id] = event
        if self._ended:
            return self._refused() if self._is_end_said else []
        trial = Trial(event.trial_id, event.onset_s, event.duration_s)
        try:
            self._decoder.add_trial(trial)
        except Exception as error:
            why = self._why(error)
            return [] if self._ended else self._refuse([event.trial_id], why)
        return []

    def add_volume(self, action: AddVolume) -> list[Outgoing]:
        """Decode a volume: its outcome, and those of the trials now due."""
        record, index = action.record, action.record.volume_index
        answered = self._record.volumes.get(index)
        if answered is not None:
            return self._follow(answered, action)
        volume = volume_from(action.envelope)
        if volume.dtype.kind == "f" and not np.isfinite(volume).all():
            return self._unusable(action, "NOT_FINITE", ())
        if self._ended:
            return self._unusable(action, "DECODER_FAILED", ())
        try:
            report, trials = self._decoder.add_volume(index, volume, **_told(record))
        except Exception as error:
            why = self._why(error)
            told = () if self._ended else (why,)
            return self._unusable(action, "DECODER_FAILED", told)
        decided_ns = self._clock_ns()
        timing = self._timing(decided_ns, action.deadline_ns)
        answer, lateness = self._late.of_volume(report.answer, timing)
        outcome = VolumeOutcome(
            **self._common(decided_ns),
            volume_index=index,
            input="OK",
            timing=timing,
            degraded=(*action.degraded, *report.degraded, *lateness),
            quality=dict(report.quality),
            stage_ns=dict(report.stage_ns),
            input_crc32=action.envelope.crc32,
            acquired_ns=record.acquired_ns,
            clock_offset_ns=record.clock_offset_ns,
            clock_uncertainty_ns=record.clock_uncertainty_ns,
            received_ns=action.received_ns,
            deadline_ns=action.deadline_ns,
            **said_in(answer),
        )
        self._last_volume = index
        return [(outcome, b""), *self._trials(trials, decided_ns, timing)]

    def waiting(self) -> tuple[str, ...]:
        """Name the trials that are announced and have no final outcome."""
        done = self._record.trials
        return tuple(trial_id for trial_id in self._open if trial_id not in done)

    def update(self, trial_id: str, after_input: int) -> Outgoing | None:
        """Estimate a trial that waits; None where its decoder has nothing to say.

        Args:
            trial_id: One that waits.
            after_input: Place in the log of the newest input.
        """
        if self._ended:
            return None
        try:
            report = self._decoder.early(trial_id)
        except Exception:
            # By contract it changed nothing, and what is not given is not on record: to
            # end the run here is what no replay could know. The final outcome tells.
            return None
        if report is None:
            return None
        outcome = Update(
            **self._common(self._clock_ns()),
            trial_id=trial_id,
            degraded=report.degraded,
            delay_s=report.delay_s,
            last_volume=report.last_volume,
            volumes_used=report.volumes_used,
            after_volume=self._last_volume,
            after_input=after_input,
            stage_ns=dict(report.stage_ns),
            **said_in(report.answer),
        )
        return outcome, b""

    def skip_volume(self, action: SkipVolume) -> list[Outgoing]:
        """Account for an acquisition without usable volume."""
        answered = self._record.volumes.get(action.volume_index)
        if answered is not None:
            return self._follow(answered, None)
        volume = action.volume
        trials, degraded = self._skip(action.volume_index)
        decided_ns = self._clock_ns()
        timing = self._timing(decided_ns, action.deadline_ns)
        outcome = VolumeOutcome(
            **self._common(decided_ns),
            volume_index=action.volume_index,
            input=action.input,
            timing=timing,
            degraded=(*action.degraded, *degraded),
            reason=action.reason,
            input_crc32=action.input_crc32,
            acquired_ns=None if volume is None else volume.acquired_ns,
            clock_offset_ns=None if volume is None else volume.clock_offset_ns,
            clock_uncertainty_ns=(
                None if volume is None else volume.clock_uncertainty_ns
            ),
            received_ns=action.received_ns,
            deadline_ns=action.deadline_ns,
        )
        self._last_volume = action.volume_index
        answers = self._trials(trials, decided_ns, timing)
        refused = self._refused() if self._ended in degraded else []
        return [(outcome, b""), *answers, *refused]

    def _skip(
        self, index: int, *, is_wanted: bool = True
    ) -> tuple[tuple[TrialReport, ...], tuple[str, ...]]:
        # Past the announced length a decoder has no row for the acquisition.
        is_known = self._run is not None and index < self._run.expected_volumes
        if self._ended or not is_known:
            return (), (self._ended,) if self._ended and is_known else ()
        try:
            return self._decoder.skip_volume(index, is_wanted=is_wanted), ()
        except Exception as error:
            return (), (self._why(error),)

    def _follow(
        self, answered: VolumeOutcome, action: AddVolume | None
    ) -> list[Outgoing]:
        """Bring the decoder to where the one was that answered this acquisition."""
        index = answered.volume_index
        self._last_volume = index
        self._late.know(answered)
        if ended := ended_in(answered):
            self._ended, self._is_end_said = ended, True
            return self._refused()
        is_wanted = not self._record.is_settled(index)
        decided_ns = self._clock_ns()
        if action is None or answered.input != "OK" or self._ended:
            trials, _ = self._skip(index, is_wanted=is_wanted)
            return self._trials(trials, decided_ns, answered.timing)
        try:
            _, trials = self._decoder.add_volume(
                index,
                volume_from(action.envelope),
                is_wanted=is_wanted,
                **_told(action.record),
            )
        except Exception as error:
            # It did not fail for the other one: from here the two may differ.
            self._why(error)
            trials, _ = self._skip(index, is_wanted=is_wanted)
        return self._trials(trials, decided_ns, answered.timing)

    def end(self, action: EndRun) -> list[Outgoing]:
        """Answer all open trials, then say that nothing will follow."""
        trials: tuple[TrialReport, ...] = ()
        # Another one may have died while it said so of the trials that were open.
        said = map(ended_in, self._record.trials.values())
        self._ended = next(filter(None, said), self._ended)
        degraded = (self._ended,) if self._ended and not self._is_end_said else ()
        if not self._ended:
            try:
                trials = self._decoder.end_run()
            except Exception as error:
                degraded = (self._why(error),)
                trials = error.answered if isinstance(error, RecordedEndError) else ()
        decided_ns = self._clock_ns()
        timing = self._timing(decided_ns, None)
        outgoing = self._trials(trials, decided_ns, timing)
        # A promise of the wire, kept even where a decoder forgets one of its trials.
        forgotten = [
            _no_report(trial_id, self._ended or "the decoder gave no report")
            for trial_id in list(self._open)
            if trial_id not in self._record.trials
        ]
        outgoing += self._trials(forgotten, decided_ns, timing)
        ended = RunEnded(
            **self._common(decided_ns),
            count=action.record.count,
            aborted=action.record.aborted,
            degraded=degraded,
        )
        return [*outgoing, (ended, b"")]

    def _refused(self) -> list[Outgoing]:
        """Refuse what is open, where the decoder has ended; from now on it is said."""
        if not self._ended:
            return []
        self._is_end_said = True
        return self._refuse(list(self._open), self._ended)

    def _refuse(self, trial_ids: Iterable[str], why: str) -> list[Outgoing]:
        decided_ns = self._clock_ns()
        refused = [_no_report(trial_id, why) for trial_id in trial_ids]
        return self._trials(refused, decided_ns, self._timing(decided_ns, None))

    def _why(self, error: Exception, *, is_begun: bool = True) -> str:
        """Say what a decoder failed by; one that it never meant to ends its run.

        A decoder that refuses raises one of our errors and has changed nothing. What
        else it raises, from a defect or for want of memory, may have left it half-way:
        its answers might be wrong from then on. It is not asked again in this run, and
        the run's outcomes say so. Dying instead would kill every worker that follows.
        """
        if is_begun and isinstance(error, NeuroFlowError):
            return str(error)[:MAX_TEXT]
        self._ended = end_by(error)
        return self._ended

    def _unusable(
        self, action: AddVolume, reason: str, degraded: tuple[str, ...]
    ) -> list[Outgoing]:
        skip = SkipVolume(
            action.record.volume_index,
            "INVALID",
            reason,
            action.deadline_ns,
            action.record,
            action.envelope.crc32,
            action.received_ns,
            (*action.degraded, *degraded),
        )
        return self.skip_volume(skip)

    def _timing(self, decided_ns: int, deadline_ns: int | None) -> Timing:
        if self._run is not None and self._run.pace == "catchup":
            return "CATCHUP"
        is_late = deadline_ns is not None and decided_ns > deadline_ns
        return "LATE" if is_late else "LIVE"

    def _trials(
        self, reports: Iterable[TrialReport], decided_ns: int, timing: Timing
    ) -> list[Outgoing]:
        outgoing: list[Outgoing] = []
        for made in reports:
            event = self._open.pop(made.trial_id, None)
            if event is None or made.trial_id in self._record.trials:
                continue  # its final outcome is out, and is never edited
            report = self._late.of_trial(made, timing)
            arrays = {
                name: array
                for name, array in (
                    ("z_v", report.z_v),
                    ("image", report.image),
                    ("beta", report.beta),
                    ("standard_error", report.standard_error),
                )
                if array is not None
            }
            outcome = TrialOutcome(
                **self._common(decided_ns),
                degraded=report.degraded,
                trial_id=report.trial_id,
                onset_s=event.onset_s,
                delay_s=report.delay_s,
                first_volume=report.first_volume,
                last_volume=report.last_volume,
                volumes_used=report.volumes_used,
                timing=timing,
                after_volume=self._last_volume,
                clock_offset_ns=event.clock_offset_ns,
                clock_uncertainty_ns=event.clock_uncertainty_ns,
                stage_ns=dict(report.stage_ns),
                arrays=tuple(arrays),
                **said_in(report.answer),
            )
            outgoing.append((outcome, bytes_from_arrays(arrays)))
        return outgoing

    def _common(self, decided_ns: int) -> dict[str, Any]:
        return {
            "run": "" if self._run is None else self._run.run,
            "stream": "server",
            "outcome_index": 0,
            "decided_ns": decided_ns,
            "published_ns": decided_ns,
            "bundle_sha256": self._decoder.bundle_sha256,
            "gallery_sha256": self._decoder.gallery_sha256,
            "preprocessing_sha256": self._decoder.preprocessing_sha256,
            "overlay_sha256": self._decoder.overlay_sha256,
            "configuration_sha256": self._configuration_sha256,
        }


def _told(volume: Volume) -> dict[str, Any]:
    """Give what came beside the voxels, if anything: not every decoder asks for it."""
    return {} if volume.confounds is UNSET else {"confounds": volume.confounds}


def _no_report(trial_id: str, why: str) -> TrialReport:
    return TrialReport(
        trial_id=trial_id,
        answer=Answer("ABSTAIN", reason=why),
        delay_s=0.0,
        first_volume=-1,
        last_volume=-1,
        volumes_used=0,
        stage_ns={},
    )
