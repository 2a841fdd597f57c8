"""Motion in a bundle: learned, exported, served and reported by one code."""

import dataclasses
import functools

import msgspec
import nibabel
import numpy as np
import pytest
from msgspec import UNSET

from bci_bridge.admission import Admission
from bci_bridge.messages import RunStart
from benchmarks.motion_phantom import Scanner
from runtime.answers import RunGeometry, Trial
from runtime.bundle import _check_contents, open_bundle
from runtime.errors import (
    BundleError,
    ConfigError,
    PeerError,
    ScanError,
    TensorMismatchError,
)
from runtime.estimator import BetaEstimator, VolumeEstimator
from runtime.frontend import BetaFrontend, VolumeFrontend
from runtime.live import open_decoder
from runtime.preprocess import VoxelMask
from runtime.preprocess.motion_report import MOTION_CONFOUNDS, NOT_REGISTERED
from runtime.preprocess.motion_settings import Motion
from runtime.recording import RecordedEvent, RecordedRun, Recording, timeline
from runtime.voxel_source import VoxelSource
from tests import models
from tests.moving_heads import SCANNER, poses, reference, scan
from tests.unit.test_live import PICTURES, gallery, random_model
from training.features import (
    masked_volumes,
    reference_of,
    trial_betas,
    volume_features,
    volume_statistics,
)

TR_S, VOLUMES = 1.5, 26
BETAS = BetaEstimator(decision_delay_s=8.0, baseline_volumes=5, motion=Motion())
EVENTS = tuple(
    RecordedEvent(9.0 + 6.0 * k, 2.0, f"trial-{k}", "", "", "train") for k in range(4)
)


@functools.cache
def volumes():
    path = np.cumsum(poses(VOLUMES, size=0.15), axis=0)
    return np.stack([scan(pose, noise=k) for k, pose in enumerate(path)])


def run(folder):
    file = folder / "run_bold.nii.gz"
    data = np.moveaxis(volumes(), 0, -1)
    nibabel.save(nibabel.Nifti1Image(data, SCANNER.affine), file)
    return RecordedRun(
        "run", TR_S, SCANNER.shape, SCANNER.affine, EVENTS, (None,) * VOLUMES, file
    )


def model(estimator=BETAS, image=None):
    """A random model whose voxels are the brightest of the head's middle."""
    plain = random_model(estimator)
    inner = np.zeros(SCANNER.shape)
    inner[8:-8, 8:-8, 5:-5] = reference()[8:-8, 8:-8, 5:-5]
    chosen = np.argsort(inner, axis=None)[-plain.config.vae.voxels :]
    mask = np.zeros(inner.size, dtype=np.bool_)
    mask[chosen] = True
    return dataclasses.replace(
        plain,
        preprocessing=dataclasses.replace(
            plain.preprocessing,
            mask=mask.reshape(SCANNER.shape),
            affine=SCANNER.affine,
            reference=image,
        ),
    )


def mask():
    return VoxelMask.from_volume(model().preprocessing.mask)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A bundle with motion, learned from a run: the folder, and the run."""
    folder = tmp_path_factory.mktemp("motion")
    recorded = run(folder)
    image = reference_of(recorded, BETAS).volume
    models.export(model(image=image), folder / "bundle", backbone=PICTURES)
    gallery(folder)
    return folder, recorded


def geometry(recorded, **changes):
    affine = tuple(float(number) for number in recorded.affine.ravel())
    told = RunGeometry("run", recorded.shape, TR_S, VOLUMES, affine=affine)
    return dataclasses.replace(told, **changes)


@pytest.mark.slow
def test_what_was_learned_on_is_what_is_served_bit_for_bit(served):
    folder, recorded = served
    whole = reference_of(recorded, BETAS)
    features = trial_betas(
        Recording(folder, (recorded,), mask()), BETAS, reference=whole
    )
    data, reports, trials = recorded.volumes(), [], []

    with open_decoder(folder / "bundle", folder / "gallery", threads=1) as decoder:
        decoder.start_run(geometry(recorded))
        for item in timeline(recorded):
            if isinstance(item, RecordedEvent):
                decoder.add_trial(Trial(item.trial_id, item.onset_s, item.duration_s))
            else:
                report, due = decoder.add_volume(item, data[item])
                reports.append(report)
                trials += due

    betas = [trial.beta for trial in trials if trial.beta is not None]
    assert len(betas) >= 3
    np.testing.assert_array_equal(betas, features.betas)
    assert all(report.quality["motion_registered"] == 1.0 for report in reports)
    moved = [r.quality["framewise_displacement_mm"] for r in reports[1:]]
    assert 0.1 < np.mean(moved) < 1.0
    assert "framewise_displacement_mm" not in reports[0].quality
    assert reports[0].quality["mask_overlap"] > 0.95


@pytest.mark.slow
def test_a_bundle_keeps_its_reference_and_says_so_in_its_hash(served):
    folder, recorded = served
    image = reference_of(recorded, BETAS).volume

    with open_bundle(folder / "bundle") as bundle:
        np.testing.assert_array_equal(bundle.reference().volume, image)
        np.testing.assert_array_equal(bundle.reference().affine, SCANNER.affine)
        assert bundle.manifest.estimator == BETAS
        said = bundle.manifest.preprocessing_sha256
    assert said == model(image=image).preprocessing.sha256()
    assert said != model(image=image + 1).preprocessing.sha256()


def test_without_motion_nothing_is_written_of_it():
    assert "motion" not in msgspec.to_builtins(BetaEstimator())
    assert "reference" not in model(BetaEstimator()).preprocessing.tensors()


@pytest.mark.parametrize("estimator", [BETAS, BetaEstimator()])
def test_a_reference_is_exported_exactly_where_motion_asks_for_it(estimator, tmp_path):
    image = None if estimator is BETAS else reference()

    with pytest.raises(TensorMismatchError, match="reference: expected one exactly"):
        models.export(model(estimator, image), tmp_path / "bundle")


@pytest.mark.slow
def test_a_bundle_with_motion_and_without_a_reference_is_refused(served):
    with open_bundle(served[0] / "bundle") as bundle:
        manifest, tensors = bundle.manifest, dict(bundle.tensors)
        del tensors["reference"]
        with pytest.raises(BundleError) as error:
            _check_contents(manifest, tensors)

    assert str(error.value) == (
        "tensors.safetensors: reference: expected shape [40, 40, 20], found none"
    )


@pytest.mark.slow
def test_a_volume_without_the_head_is_told_in_its_report(served):
    folder, recorded = served
    empty = np.random.default_rng(0).normal(500, 100, SCANNER.shape).astype(np.int16)

    with open_decoder(folder / "bundle", folder / "gallery", threads=1) as decoder:
        decoder.start_run(geometry(recorded))
        with pytest.raises(ScanError, match="motion: expected the bundle's reference"):
            decoder.add_volume(0, empty)
        first, _ = decoder.add_volume(0, volumes()[0])
        lost, _ = decoder.add_volume(1, empty)

    assert first.degraded == ()
    assert lost.degraded == (NOT_REGISTERED,)
    assert lost.quality["motion_registered"] == 0.0


@pytest.mark.slow
def test_who_follows_a_run_and_then_answers_gives_the_same_answers(served):
    folder, recorded = served
    data = recorded.volumes()
    lost = np.zeros(SCANNER.shape, dtype=np.int16)
    unseen, taken_over_at = 4, VOLUMES // 2

    def played(decoder, is_first):
        decoder.start_run(geometry(recorded))
        said = []
        for item in timeline(recorded):
            if isinstance(item, RecordedEvent):
                decoder.add_trial(Trial(item.trial_id, item.onset_s, item.duration_s))
                continue
            is_wanted = is_first or item >= taken_over_at
            if item == 0:
                # Refused live, so that whoever follows the record passes it over.
                if is_first:
                    with pytest.raises(ScanError):
                        decoder.add_volume(item, lost)
                trials = decoder.skip_volume(item, is_wanted=is_wanted)
            else:
                volume = lost if item == unseen else data[item]
                report, trials = decoder.add_volume(item, volume, is_wanted=is_wanted)
                if item >= taken_over_at:
                    said.append((report.quality, report.degraded))
            if is_wanted and item >= taken_over_at:
                said += [(t.answer, t.beta.tobytes(), t.z_v.tobytes()) for t in trials]
        return said

    answers = []
    for is_first in (True, False):
        with open_decoder(folder / "bundle", folder / "gallery", threads=1) as decoder:
            answers.append(played(decoder, is_first))

    assert answers[0] == answers[1]
    assert sum(len(one) == 3 for one in answers[0]) >= 1


@pytest.mark.slow
def test_another_matrix_is_decoded_where_its_affine_is_known(served):
    folder, recorded = served
    other = Scanner((48, 44, 24), (3.5, 3.6, 4.4))
    affine = tuple(float(number) for number in other.affine.ravel())
    told = geometry(recorded, shape=other.shape, affine=affine)

    with open_decoder(folder / "bundle", folder / "gallery", threads=1) as decoder:
        assert decoder.takes_any_grid
        decoder.start_run(told)
        report, _ = decoder.add_volume(0, scan(np.zeros(6), scanner=other))
        with pytest.raises(TensorMismatchError, match="expected volumes"):
            decoder.start_run(dataclasses.replace(told, affine=None))

    assert report.quality["mask_overlap"] > 0.95


def test_a_server_takes_another_matrix_only_with_motion_and_an_affine():
    here = {"bundle_sha256": "a" * 64, "gallery_sha256": "b" * 64, "shape": (4, 3, 3)}
    start = RunStart(
        run="r", stream="s", sequence=0, shape=(5, 3, 3), tr_s=1.0,
        expected_volumes=9, budget_s=0.5, affine=tuple(np.eye(4).ravel().tolist()),
    )  # fmt: skip

    Admission(**here, takes_any_grid=True).check(start)
    for admission, told in (
        (Admission(**here), start),
        (
            Admission(**here, takes_any_grid=True),
            msgspec.structs.replace(start, affine=None),
        ),
    ):
        with pytest.raises(PeerError, match="shape: expected"):
            admission.check(told)


def test_a_front_end_with_motion_asks_for_a_reference(tmp_path):
    with pytest.raises(ConfigError) as error:
        BetaFrontend(mask(), BETAS, geometry(run(tmp_path)))

    assert str(error.value) == (
        "motion: expected a reference volume beside the mask, found none. Export the "
        "bundle again, or leave motion unset"
    )


def test_normalised_volumes_with_motion_stream_as_offline(tmp_path):
    estimator, recorded = VolumeEstimator(motion=Motion()), run(tmp_path)
    whole = reference_of(recorded, estimator)
    statistics = volume_statistics([recorded], mask(), estimator, whole)
    rows = masked_volumes(recorded, volumes(), mask(), estimator, whole)

    found = volume_features(recorded, mask(), estimator, statistics, whole)

    still = [mask().select(volume) for volume in volumes()]
    assert rows.std(axis=0).mean() < 0.7 * np.std(still, axis=0).mean()
    weight = estimator.prior_weight
    total = weight * statistics.prior.astype(np.float64)
    for count, (row, live) in enumerate(zip(rows, found, strict=True), 1):
        total += row
        wanted = (row - total / (weight + count)) / statistics.scale
        np.testing.assert_allclose(live, wanted, atol=1e-3)


def test_motion_is_a_confound_where_the_estimator_names_it(tmp_path):
    recorded = run(tmp_path)
    whole, trial = reference_of(recorded, BETAS), Trial("a", 9.0, 2.0)
    named = msgspec.structs.replace(BETAS, confounds=("heart", *MOTION_CONFOUNDS))
    told = msgspec.structs.replace(
        BETAS, motion=UNSET, confounds=("heart", *MOTION_CONFOUNDS)
    )
    measuring = BetaFrontend(mask(), named, geometry(recorded), reference=whole)
    source = VoxelSource(mask(), BETAS.motion, geometry(recorded), whole)
    chosen = VoxelMask.from_volume(np.ones((mask().voxels, 1, 1), dtype=np.bool_))
    rows = RunGeometry("run", chosen.shape, TR_S, VOLUMES)
    hearing = BetaFrontend(chosen, told, rows)
    measuring.add_trial(trial)
    hearing.add_trial(trial)

    due, wanted = [], []
    for index, volume in enumerate(volumes()):
        heart = {"heart": float(np.sin(index))}
        due += measuring.add_volume(index, volume, heart)
        row = source.take(volume).reshape(chosen.shape)
        moved = dict(zip(MOTION_CONFOUNDS, source.motion.pose.tolist(), strict=True))
        wanted += hearing.add_volume(index, row, heart | moved)

    np.testing.assert_array_equal(due[0].beta.beta, wanted[0].beta.beta)
    with pytest.raises(TensorMismatchError, match="expected heart with every volume"):
        BetaFrontend(mask(), named, geometry(recorded), reference=whole).add_volume(
            0, volumes()[0]
        )


def test_voxels_that_no_volume_shows_are_the_baselines(tmp_path):
    low = np.array([0.0, 0.0, 42.0, 0.0, 0.0, 0.0])
    settings, recorded = Motion(min_overlap=0.05), run(tmp_path)
    whole = reference_of(recorded, BETAS)
    high = np.zeros(SCANNER.shape, dtype=np.bool_)
    high[15:25, 15:25, 6:16] = True
    chosen = VoxelMask.from_volume(high)
    ones = np.ones(chosen.voxels, dtype=np.float32)
    betas = BetaFrontend(
        chosen,
        msgspec.structs.replace(BETAS, motion=settings, baseline_volumes=1),
        geometry(recorded),
        reference=whole,
    )
    scaled = VolumeFrontend(
        chosen,
        VolumeEstimator(motion=settings),
        geometry(recorded),
        prior=700 * ones,
        scale=ones,
        reference=whole,
    )

    betas.add_volume(0, scan(low))
    features = scaled.add_volume(0, scan(low))

    unseen = int(betas.quality()["outside_voxels"])
    assert 0 < unseen < chosen.voxels
    assert betas.invalid_voxels >= unseen
    assert (features == 0).sum() >= unseen
