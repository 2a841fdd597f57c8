"""An opened bundle and gallery, ready to decode run after run.

Here alone the runtime's parts are put together, for server, evaluation and embedding.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.answers import RunGeometry, Trial, TrialReport, VolumeReport
from runtime.bundle import Bundle, backbone_of, open_bundle
from runtime.closing import Closing
from runtime.decoder import DecodingModel, Reader, TrialDecoder, VolumeDecoder
from runtime.encoder import Encoder
from runtime.engine import Precision, Waiting
from runtime.engines.cache import EngineCache
from runtime.errors import ConfigError, UsageError
from runtime.estimator import BetaEstimator, live_estimator, told_confounds
from runtime.frontend import BetaFrontend, VolumeFrontend
from runtime.gallery import Gallery, open_gallery
from runtime.given import check_abstain_below
from runtime.graphs import BOTH_WAYS, Part
from runtime.heads import Retrieval
from runtime.maps import InPlace
from runtime.model import SAMPLES, Model, open_model
from runtime.overlay import Overlay, open_overlay
from runtime.preprocess import VoxelMask
from runtime.preprocess.smooth import voxel_sizes_mm
from runtime.signing import Trust


class RunDecoder(Closing):
    """Decodes runs, one after another, with one model and one gallery."""

    def __init__(
        self,
        bundle: Bundle,
        gallery: Gallery,
        model: Model,
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        abstain_below: float = 0.0,
        overlay: Overlay | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            bundle: A verified bundle; stays open for as long as this.
            gallery: What retrieval may answer with.
            model: The bundle's engines.
            clock: Monotonic nanoseconds; only measures stages.
            abstain_below: Confidence under which the decision is ABSTAIN.
            overlay: The day's calibration; None serves the bundle as it is.

        Raises:
            BundleError: The gallery's calibration or the overlay belongs to another
                bundle, latents are not the model's, or others estimate its betas.
            BackendError: What searches the gallery cannot be opened.
            ParityError: It does not give the cosines.
        """
        self._estimator = live_estimator(bundle.manifest.estimator)
        self.told_confounds = told_confounds(self._estimator)
        """Names of what has to come with each volume."""
        self.bundle, self.gallery, self.model = bundle, gallery, model
        self.overlay = overlay
        self._clock = clock
        self._retrieval = Retrieval(
            gallery.latents,
            gallery.ids,
            gallery.labels,
            mean=bundle.latent_mean,
            temperature=gallery.temperature_for(bundle.sha256),
            rows_of=model.rows_of,
        )
        gallery.let_go()  # searched in rows of its own
        self._mask = VoxelMask.from_volume(bundle.mask)
        self._reference = bundle.reference()
        # The one place where an overlay changes what is computed.
        self._space = bundle.feature_space()
        read_with: DecodingModel = InPlace(model)
        if overlay is not None:
            self._space = overlay.space(bundle)
            read_with = overlay.corrected(read_with)
        self._reader = Reader(
            read_with, self._retrieval, backbone_of(bundle), abstain_below
        )
        self._run: TrialDecoder | VolumeDecoder | None = None
        self._is_closed = False

    @property
    def bundle_sha256(self) -> str:
        """Identity of the model; every outcome cites it."""
        return self.bundle.sha256

    @property
    def gallery_sha256(self) -> str:
        """Identity of what retrieval chooses from."""
        return self.gallery.sha256

    @property
    def preprocessing_sha256(self) -> str:
        """Identity of what happens to a volume before the model."""
        return self.bundle.manifest.preprocessing_sha256

    @property
    def overlay_sha256(self) -> str | None:
        """Identity of the day's calibration; None without one."""
        return None if self.overlay is None else self.overlay.sha256

    def encoder(self) -> Encoder:
        """Return the other direction: images to predicted responses.

        Of an overlay it has the normalisation: the correction is of the decoder alone.

        Raises:
            UsageError: The decoder is closed, the bundle's latents are no images, or
                it was opened without the parts that predict.
        """
        self._require_open()
        lacking = sorted({"decoder", "encode_flow"} - self.model.parts)
        if lacking:
            raise UsageError(
                "encoder: expected a decoder that was opened with all parts, found "
                f"one without {' and '.join(lacking)}"
            )
        backbone = backbone_of(self.bundle)
        if backbone is None:
            raise UsageError(
                "encoder: expected a bundle whose latents are images, found backbone "
                f"{self.bundle.manifest.backbone.name}"
            )
        return Encoder(self.model, backbone, self._space)

    def start_run(self, run: RunGeometry) -> None:
        """Forget the last run and allocate for this one.

        Raises:
            TensorMismatchError: The run's volumes do not fit the bundle's mask.
            ConfigError: The run does not say what the estimator asks for, has no length
                or repetition time, is over six hours long, or memory does not hold it.
            UsageError: The decoder is closed.
        """
        self._require_open()
        run.check()
        try:
            self._run = self._begun(run)
        except MemoryError as error:
            raise ConfigError(
                f"expected_volumes: expected a run that memory holds, found "
                f"{run.expected_volumes:,} volumes"
            ) from error

    def _begun(self, run: RunGeometry) -> TrialDecoder | VolumeDecoder:
        estimator, space = self._estimator, self._space
        voxel_mm = voxel_sizes_mm(np.array(self.bundle.manifest.voxels.affine))
        if isinstance(estimator, BetaEstimator):
            return TrialDecoder(
                BetaFrontend(
                    self._mask,
                    estimator,
                    run,
                    voxel_mm=voxel_mm,
                    hrf_index=self.bundle.hrf_index,
                    reference=self._reference,
                ),
                self._reader,
                run,
                space=space,
                clock=self._clock,
            )
        frontend = VolumeFrontend(
            self._mask,
            estimator,
            run,
            prior=space.affine.mean,
            scale=space.affine.scale,
            voxel_mm=voxel_mm,
            reference=self._reference,
        )
        return VolumeDecoder(
            frontend,
            self._reader,
            whitening=space.whitening,
            warming_volumes=estimator.warming_volumes,
            clock=self._clock,
        )

    def add_trial(self, trial: Trial) -> None:
        """Learn that something is presented.

        Raises:
            UsageError: No run is under way, the trial is known, or the bundle answers
                volumes.
            ConfigError: Times that there cannot be.
        """
        self._started().add_trial(trial)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z of every volume."""
        x, y, z = self._mask.shape
        return x, y, z

    @property
    def takes_any_grid(self) -> bool:
        """Whether volumes of another shape are taken where their affine is known."""
        return self._reference is not None

    def add_volume(
        self,
        volume_index: int,
        volume: np.ndarray,
        *,
        is_wanted: bool = True,
        confounds: Mapping[str, float] | None = None,
    ) -> tuple[VolumeReport, tuple[TrialReport, ...]]:
        """Use the next acquisition; answer it and the trials that are due by it.

        Args:
            volume_index: Zero-based index of the acquisition.
            volume: x, y, z.
            is_wanted: False where the answers are known: only the state advances.
            confounds: What the estimator's confounds are with this volume, by name.

        Raises:
            UsageError: No run is under way: none began, or it has ended.
            TensorMismatchError: The volume has another shape, dtype or index.
            ScanError: The run's first volume does not show the bundle's reference.
        """
        report, trials = self._started().add_volume(
            volume_index, volume, is_wanted=is_wanted, confounds=confounds
        )
        # A front end alone, which answers nothing, has not met an engine.
        if report.answer is not None and (troubles := self._troubles()):
            report = replace(report, degraded=(*report.degraded, *troubles))
        return report, self._marked(trials)

    def skip_volume(
        self, volume_index: int, *, is_wanted: bool = True
    ) -> tuple[TrialReport, ...]:
        """Go without an acquisition; answer the trials that are due by it, if wanted.

        Raises:
            UsageError: No run is under way.
            TensorMismatchError: The run has no such index.
        """
        return self._marked(
            self._started().skip_volume(volume_index, is_wanted=is_wanted)
        )

    def early(self, trial_id: str) -> TrialReport | None:
        """Say what a trial that is not due yet looks like so far; changes nothing.

        The report's answer has no confidence, and its arrays are those of the final
        one without the image.

        Returns:
            None where the trial is due already or unknown, before half of its decision
            delay, where no engine computes, or where the bundle answers volumes.

        Raises:
            UsageError: No run is under way.
        """
        report = self._started().early(trial_id)
        return None if report is None else self._marked((report,))[0]

    def end_run(self) -> tuple[TrialReport, ...]:
        """Answer every trial that is still open, and forget the run.

        Raises:
            UsageError: No run is under way.
        """
        reports = self._started().end_run()
        self._run = None  # else a volume now could answer a trial a second time
        return self._marked(reports)

    def _marked(self, trials: tuple[TrialReport, ...]) -> tuple[TrialReport, ...]:
        """Say in every answer that another engine than the one chosen computes."""
        troubles = self._troubles()
        if not troubles:
            return trials
        return tuple(
            replace(trial, degraded=(*trial.degraded, *troubles)) for trial in trials
        )

    def _troubles(self) -> tuple[str, ...]:
        return (*self.model.troubles, *self._retrieval.troubles)

    def _require_open(self) -> None:
        if self._is_closed:
            raise UsageError("decoder: expected one that is open, found it closed")

    def _started(self) -> TrialDecoder | VolumeDecoder:
        self._require_open()
        if self._run is None:
            raise UsageError("decoder: expected start_run first, found no run")
        return self._run

    def close(self) -> None:
        """Close the engines, then the bundle's private copy; the run is forgotten."""
        self._run, self._is_closed = None, True
        self.model.close()
        self.bundle.close()


def open_decoder(
    bundle_folder: str | Path,
    gallery_folder: str | Path,
    *,
    backend: str = "ort",
    precision: Precision = "f32",
    threads: int | None = None,
    abstain_below: float = 0.0,
    trust: Trust = None,
    cache: EngineCache | None = None,
    behind: Sequence[str] = (),
    waiting: Waiting | None = None,
    overlay_folder: str | Path | None = None,
    parts: Collection[Part] = BOTH_WAYS,
    copies: str | Path | None = None,
) -> RunDecoder:
    """Verify and open a bundle and a gallery, and the day's overlay where there is one.

    Args:
        bundle_folder: What export wrote.
        gallery_folder: What retrieval chooses from.
        backend: Engine library.
        precision: Of the engines' arithmetic.
        threads: Of one evaluation; None leaves the choice to the library.
        abstain_below: Confidence under which the decision is ABSTAIN.
        trust: Whose signature each of them must carry; None demands none.
        cache: Where compiled engines are kept between starts; None keeps none.
        behind: Backends that take over, in f32, where an engine fails later on; every
            answer from then on says so.
        waiting: How TensorRT waits; None takes its defaults, or is another backend.
        overlay_folder: What `calibrate` wrote today; None serves the bundle as it is.
        parts: Of the model; `runtime.graphs.SERVED` is enough without
            `RunDecoder.encoder`, and takes less memory and time.
        copies: Folder of mode 0700 that keeps verified copies of bundles, and may be
            shared; None makes a temporary one.

    Raises:
        BundleError: One of them is not exactly what its manifest lists or not signed
            as demanded, they do not belong together, or the bundle cannot be served.
        BackendError: The engine library is missing or refuses a graph.
        ParityError: An engine does not give the golden vectors.
        ArtifactError: There is no room for the private copies.
        UsageError: A choice that there is not.
    """
    check_abstain_below(abstain_below)
    with ExitStack() as opened:
        bundle = opened.enter_context(open_bundle(bundle_folder, copies, trust=trust))
        # Said before engines are loaded, which takes long.
        live_estimator(bundle.manifest.estimator, str(bundle_folder))
        gallery = open_gallery(gallery_folder, bundle.manifest.latent, trust=trust)
        overlay = None
        if overlay_folder is not None:
            overlay = open_overlay(overlay_folder, bundle, trust=trust)
        model = opened.enter_context(
            open_model(
                bundle,
                backend,
                precision,
                threads,
                cache=cache,
                behind=behind,
                waiting=waiting,
                samples=SAMPLES,
                parts=parts,
            )
        )
        decoder = RunDecoder(
            bundle, gallery, model, abstain_below=abstain_below, overlay=overlay
        )
        opened.pop_all()  # the decoder's to close from here on
        return decoder
