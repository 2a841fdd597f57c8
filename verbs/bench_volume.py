"""A whole volume around engines that take no time, as the server's worker takes it.

What `RunDecoder.add_volume` does: voxels, quality, percent signal, GLM, and where a
trial is due its estimate, the solver's sums, heads and report. Runs follow each other;
what lies between two volumes that are measured is not.
"""

import math
from collections.abc import Iterator
from typing import Final, final

import numpy as np

from runtime.answers import RunGeometry, Trial, TrialReport, VolumeReport
from runtime.bundle import Bundle
from runtime.estimator import BetaEstimator, live_estimator, told_confounds
from runtime.gallery import Gallery
from runtime.live import RunDecoder
from runtime.maps import Model
from runtime.preprocess.timing import decision_volume

TR_S: Final = 2.0
RUN_S: Final = 300.0
"""Of a run from where answers begin; with a trial every 4 s as in the Natural Scenes
Dataset, so that every second volume has one due."""
TRIAL_S: Final = 4.0
SHOWN_S: Final = 3.0
_KINDS: Final = 8  # volumes that differ
Reports = tuple[VolumeReport, tuple[TrialReport, ...]]


@final
class Volumes:
    """Volumes of runs without end, of which those of one kind are measured."""

    def __init__(
        self, bundle: Bundle, model: Model, gallery: Gallery, *, is_due: bool
    ) -> None:
        """Begin with a run.

        Args:
            bundle: One that can be served.
            model: Of its sizes; gives anything, at once.
            gallery: What the heads search.
            is_due: Measure the volumes that get an answer, or else those with none, of
                which a bundle of volumes has none.

        Raises:
            BundleError: The bundle cannot be served.
        """
        estimator = live_estimator(bundle.manifest.estimator)
        self._decoder = RunDecoder(bundle, gallery, model)
        self._is_due = is_due
        self._is_beta = isinstance(estimator, BetaEstimator)
        if isinstance(estimator, BetaEstimator):
            before_s = estimator.decision_delay_s
            self._warming = estimator.baseline_volumes + math.ceil(before_s / TR_S)
            self._told = told_confounds(estimator)
        else:
            before_s, self._warming, self._told = 0.0, estimator.warming_volumes, ()
        rng = np.random.default_rng(0)
        reference = bundle.reference()
        level = 1000.0 if reference is None else reference.volume
        noise = 20.0 if reference is None else 0.01 * float(reference.volume.std())
        shape = self._decoder.shape
        self._volumes = [
            (level + noise * rng.standard_normal(shape)).astype(np.float32)
            for _ in range(_KINDS)
        ]
        self._noise = rng.standard_normal(self._warming + round(RUN_S / TR_S))
        self._geometry = RunGeometry(
            run_id="bench",
            shape=shape,
            tr_s=TR_S,
            expected_volumes=self._noise.size,
            slice_times_s=tuple(np.linspace(0, TR_S, shape[2], endpoint=False)),
        )
        self._delay_s = before_s
        self._order = self._next()
        self._index = 0

    def prepare(self) -> None:
        """Take what comes before the next volume of the kind that is measured."""
        self._index = next(self._order)

    def take(self) -> Reports:
        """Take that volume and return what the decoder said of it."""
        return self._add(self._index)

    def _add(self, index: int) -> Reports:
        confounds = dict.fromkeys(self._told, float(self._noise[index]))
        return self._decoder.add_volume(
            index, self._volumes[index % _KINDS], confounds=confounds
        )

    def _next(self) -> Iterator[int]:
        while True:
            self._decoder.start_run(self._geometry)
            due: set[int] = set()
            for index in range(self._noise.size):
                onset_s = index * TR_S
                if self._is_beta and onset_s % TRIAL_S == 0:
                    self._decoder.add_trial(Trial(f"trial-{index}", onset_s, SHOWN_S))
                    due.add(decision_volume(onset_s, self._delay_s, TR_S))
                is_answered = not self._is_beta or index in due
                if index >= self._warming and is_answered == self._is_due:
                    yield index
                else:
                    self._add(index)
