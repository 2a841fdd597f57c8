"""The decoder: a run's volumes and events in, answers out.

It owns the order of the stages and nothing else: front end, model and heads are given
to it. Pure but for the clock it is handed, which only measures. One `RunDecoder` serves
the live system, the replay faster than real time, and the offline evaluation.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

import numpy as np

from runtime.answers import (
    Answer,
    RunGeometry,
    Trial,
    TrialReport,
    VolumeReport,
)
from runtime.arrays import Float32
from runtime.errors import BackendError, UsageError
from runtime.frontend import BetaFrontend, DueTrial, VolumeFrontend
from runtime.given import check_abstain_below
from runtime.heads import Retrieval
from runtime.patch_dct import PatchDct
from runtime.preprocess import FeatureSpace, LateTrialError, NoiseWhitening, TrialBeta
from runtime.preprocess.timing import end_s

Latent = Float32[np.ndarray, "tokens width"]
Voxels = Float32[np.ndarray, " voxels"]
VOLUMES_MISSING: Final = "VOLUMES_MISSING"
"""Of a trial: between its onset and its answer a volume is missing or unusable."""
_MOST_SAID: Final = 512  # an outcome takes so many characters of a reason


@runtime_checkable
class DecodingModel(Protocol):
    """The part of `runtime.maps.Model` that decoding uses."""

    def encode_voxels(self, voxels: Voxels) -> Latent:
        """Return z_n, the mode of the posterior; valid until the next call."""
        ...

    def decode_latent(self, z_n: Latent) -> Latent:
        """Carry z_n back to z_v."""
        ...


class Stages:
    """Durations of named stages of one volume or trial."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.ns: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        start = self._clock()
        yield
        self.ns[name] = self._clock() - start


class Reader:
    """Normalised voxels to an answer: encoder, flow, heads."""

    def __init__(
        self,
        model: DecodingModel,
        retrieval: Retrieval,
        backbone: PatchDct | None,
        abstain_below: float = 0.0,
    ) -> None:
        """Join the parts.

        Args:
            model: An opened model.
            retrieval: The gallery to search.
            backbone: Turns z_v into an image; None where the latents are no images.
            abstain_below: Confidence under which the decision is ABSTAIN.

        Raises:
            UsageError: No number from 0 to 1 for a confidence.
        """
        check_abstain_below(abstain_below)
        self._model, self._retrieval = model, retrieval
        self._backbone, self._abstain_below = backbone, abstain_below

    def read(self, voxels: Voxels, stages: Stages) -> tuple[Answer, Latent]:
        """Return the answer and the visual latent that it rests on."""
        answer, z_v = self.look(voxels, stages)
        if answer.confidence is not None and answer.confidence < self._abstain_below:
            answer = Answer(
                "ABSTAIN",
                confidence=answer.confidence,
                candidates=answer.candidates,
                reason=f"confidence below {self._abstain_below:g}",
            )
        return answer, z_v

    def look(self, voxels: Voxels, stages: Stages) -> tuple[Answer, Latent]:
        """Return the same, however little the answer may be trusted."""
        with stages("encoder"):
            z_n = self._model.encode_voxels(voxels)
        with stages("flow"):
            z_v = self._model.decode_latent(z_n)
        with stages("heads"):
            answer = self._retrieval.answer(z_v)
        return answer, z_v

    def image(self, z_v: Latent) -> np.ndarray | None:
        """Return the image that the latent stands for, if it stands for one."""
        return None if self._backbone is None else self._backbone.image_from_tokens(z_v)


class TrialDecoder:
    """One run of a beta bundle: answers trials as they fall due."""

    def __init__(
        self,
        frontend: BetaFrontend,
        reader: Reader,
        run: RunGeometry,
        *,
        space: FeatureSpace,
        clock: Callable[[], int],
    ) -> None:
        """Join the parts for one run.

        Args:
            frontend: The run's front end.
            reader: Encoder, flow and heads.
            run: The run's geometry.
            space: Fitted on the calibration's betas at the same delay.
            clock: Monotonic nanoseconds; only measures.
        """
        self._frontend, self._reader, self._run = frontend, reader, run
        self._space, self._clock = space, clock
        self._refused: list[tuple[Trial, str]] = []
        self._last_index = -1
        self._last_skipped = -1

    def add_trial(self, trial: Trial) -> None:
        """Announce a stimulus; one that came too late is answered with ABSTAIN."""
        trial.check()
        try:
            self._frontend.add_trial(trial)
        except LateTrialError as error:
            self._refused.append((trial, str(error)))

    def add_volume(
        self,
        volume_index: int,
        volume: np.ndarray,
        *,
        is_wanted: bool = True,
        confounds: Mapping[str, float] | None = None,
    ) -> tuple[VolumeReport, tuple[TrialReport, ...]]:
        """Take a volume; return its report and those of the trials due with it.

        Where the reports are not wanted, the trials get none.
        """
        stages = Stages(self._clock)
        with stages("frontend"):
            due = self._frontend.add_volume(volume_index, volume, confounds)
        self._last_index = max(self._last_index, volume_index)
        reports = self._report(due) if is_wanted else self._forget()
        report = VolumeReport(
            volume_index,
            None,
            self._frontend.quality(),
            stages.ns,
            self._frontend.degraded(),
        )
        return report, reports

    def skip_volume(
        self, volume_index: int, *, is_wanted: bool = True
    ) -> tuple[TrialReport, ...]:
        """Pass over a volume that never came."""
        due = self._frontend.skip_volume(volume_index)
        self._last_skipped = max(self._last_skipped, volume_index)
        return self._report(due) if is_wanted else self._forget()

    def early(self, trial_id: str) -> TrialReport | None:
        """Say what a trial that is not due yet looks like so far.

        Without a confidence: normalisation and temperature were fitted on estimates
        at the decision delay, and say nothing of how often an earlier one is right.

        Returns:
            None where the trial is due already or unknown, where too little is known
            of it, or where no engine computes.
        """
        beta = self._frontend.early(trial_id)
        if beta is None:
            return None
        stages = Stages(self._clock)
        with stages("normalise"):
            features = self._space.to_model(beta.beta)
        try:
            answer, z_v = self._reader.look(features, stages)
        except BackendError:
            return None  # the final answer says so
        answer = replace(answer, confidence=None)
        report = _report_of(beta, answer, stages, z_v=z_v)
        return replace(report, degraded=self._lacks(beta))

    def end_run(self) -> tuple[TrialReport, ...]:
        """Answer what is still open: the run ended before its delay had passed."""
        reason = "the run ended before the decision delay had passed"
        self._refused += [(trial, reason) for trial in self._frontend.undecided()]
        return self._report([])

    def _forget(self) -> tuple[TrialReport, ...]:
        self._refused = []
        return ()

    def _report(self, due: list[DueTrial]) -> tuple[TrialReport, ...]:
        refused = [self._without_answer(t, "ABSTAIN", why) for t, why in self._refused]
        self._refused = []
        return (*refused, *(self._answer(entry) for entry in due))

    def _answer(self, due: DueTrial) -> TrialReport:
        if due.beta is None:
            reason = "the run's baseline is incomplete, or too little of the trial seen"
            return self._without_answer(due.trial, "WARMING", reason)
        stages = Stages(self._clock)
        with stages("normalise"):
            features = self._space.to_model(due.beta.beta)
        z_v = image = None
        degraded = self._lacks(due.beta)
        try:
            answer, z_v = self._reader.read(features, stages)
            with stages("image"):
                image = self._reader.image(z_v)
        except BackendError as error:
            answer, failed = _without_engine(error)
            degraded = (*degraded, *failed)
        report = _report_of(due.beta, answer, stages, z_v=z_v)
        return replace(report, image=image, degraded=degraded)

    def _lacks(self, beta: TrialBeta) -> tuple[str, ...]:
        """Say whether volumes of the trial's response never came.

        The estimate is one of what is left, and its confidence was fitted on estimates
        of all.
        """
        tr_s = self._run.tr_s
        onset_s = end_s(beta.last_volume_index, tr_s) - beta.delay_s
        # Half a microsecond: the onset was a decimal number of seconds once.
        first = math.floor((onset_s + 5e-7) / tr_s)
        return (VOLUMES_MISSING,) if self._last_skipped >= first else ()

    def _without_answer(self, trial: Trial, decision: str, reason: str) -> TrialReport:
        answer = Answer(
            "WARMING" if decision == "WARMING" else "ABSTAIN", reason=reason
        )
        return TrialReport(
            trial_id=trial.trial_id,
            answer=answer,
            delay_s=max(0.0, end_s(self._last_index, self._run.tr_s) - trial.onset_s),
            first_volume=0,
            last_volume=-1,
            volumes_used=0,
            stage_ns={},
        )


class VolumeDecoder:
    """One run of a volume bundle: answers every volume."""

    def __init__(
        self,
        frontend: VolumeFrontend,
        reader: Reader,
        *,
        whitening: NoiseWhitening,
        warming_volumes: int,
        clock: Callable[[], int],
    ) -> None:
        """Join the parts for one run.

        Args:
            frontend: The run's front end.
            reader: Encoder, flow and heads.
            whitening: Of the noise that voxels share, fitted on calibration runs.
            warming_volumes: Volumes at the start that get WARMING for a decision.
            clock: Monotonic nanoseconds; only measures.
        """
        self._frontend, self._reader, self._whitening = frontend, reader, whitening
        self._warming, self._clock = warming_volumes, clock
        self._taken = 0

    def add_trial(self, trial: Trial) -> None:
        """Refuse a trial: this bundle answers volumes.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"trial {trial.trial_id}: expected no trials, the bundle answers volumes"
        )

    def add_volume(
        self,
        volume_index: int,
        volume: np.ndarray,
        *,
        is_wanted: bool = True,
        confounds: Mapping[str, float] | None = None,
    ) -> tuple[VolumeReport, tuple[TrialReport, ...]]:
        """Take a volume and answer it, if that is wanted; it asks for no confounds."""
        del confounds
        stages = Stages(self._clock)
        with stages("frontend"):
            voxels = self._frontend.add_volume(volume_index, volume)
        self._taken += 1
        degraded = self._frontend.degraded()
        if not is_wanted:
            answer = None
        elif self._taken <= self._warming:
            answer = Answer("WARMING", reason="the run's baseline is incomplete")
        else:
            with stages("normalise"):
                features = self._whitening.whiten(voxels)
            try:
                answer, _ = self._reader.read(features, stages)
            except BackendError as error:
                answer, failed = _without_engine(error)
                degraded = (*degraded, *failed)
        report = VolumeReport(
            volume_index, answer, self._frontend.quality(), stages.ns, degraded
        )
        return report, ()

    def skip_volume(
        self, volume_index: int, *, is_wanted: bool = True
    ) -> tuple[TrialReport, ...]:
        """Pass over a volume that never came; the baseline does not move."""
        del is_wanted
        self._frontend.skip_volume(volume_index)
        return ()

    def early(self, trial_id: str) -> TrialReport | None:
        """Return nothing: there are no trials."""
        del trial_id
        return None

    def end_run(self) -> tuple[TrialReport, ...]:
        """Return nothing: every volume has been answered."""
        return ()


def _report_of(
    beta: TrialBeta, answer: Answer, stages: Stages, *, z_v: Latent | None
) -> TrialReport:
    return TrialReport(
        trial_id=beta.trial_id,
        answer=answer,
        delay_s=beta.delay_s,
        first_volume=0,
        last_volume=beta.last_volume_index,
        volumes_used=beta.volumes_used,
        stage_ns=stages.ns,
        z_v=z_v,
        beta=beta.beta,
        standard_error=beta.standard_error,
    )


def _without_engine(error: BackendError) -> tuple[Answer, tuple[str, ...]]:
    # A value: the front end has used the volume. An error would say that it has not,
    # and whoever follows the record would go on from another state.
    said = f"ENGINE_FAILED {error}"[:_MOST_SAID]
    return Answer("ABSTAIN", reason="no engine computes"), (said,)
