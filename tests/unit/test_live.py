"""An opened bundle and gallery: real engines, from raw volumes to answers."""

import dataclasses
import functools
import shutil
from pathlib import Path
from unittest import mock

import msgspec
import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.answers import RunGeometry, Trial
from runtime.bundle import (
    MANIFEST,
    TENSORS,
    BackboneSpec,
    TensorSpec,
    decode_manifest,
    open_bundle,
    write_manifest,
)
from runtime.engines.ort import OrtEngine
from runtime.engines.reference import Evaluation
from runtime.errors import (
    BackendError,
    BundleError,
    ConfigError,
    TensorMismatchError,
    UsageError,
)
from runtime.estimator import BetaEstimator, ExternalEstimator, VolumeEstimator
from runtime.gallery import (
    UNCALIBRATED_TEMPERATURE,
    Confidence,
    open_gallery,
    write_gallery,
)
from runtime.graphs import BOTH_WAYS, SERVED
from runtime.live import RunDecoder, open_decoder
from runtime.model import open_model
from runtime.patch_dct import PatchDct
from runtime.preprocess import Hrf, VoxelMask
from runtime.recording import RecordedEvent, RecordedRun, Recording, timeline
from runtime.sealed import seal
from tests import models
from training.config import config_from_preset
from training.features import trial_betas

# A whole export stands behind them, and most of it is torch's exporter.
pytestmark = pytest.mark.slow

TR_S, VOLUMES = 1.0, 50
BETAS = BetaEstimator(decision_delay_s=8.0, baseline_volumes=5)
PICTURES = BackboneSpec(name="patch_dct", image_size=4, patch=2)
EVENTS = tuple(
    RecordedEvent(8.0 + 5.5 * k, 2.0, f"trial-{k}", f"image-{k}", "", "train")
    for k in range(7)
)


@functools.cache
def random_model(estimator):
    tiny = config_from_preset("tiny")
    config = msgspec.structs.replace(
        tiny,
        vae=msgspec.structs.replace(tiny.vae, tokens=4, channel_multipliers=(1, 1, 1)),
        flow=msgspec.structs.replace(tiny.flow, tokens=4),
    )
    with mock.patch.object(models, "config_from_preset", return_value=config):
        return models.random_model(estimator=estimator)


def altered(folder, out, **changes):
    """A copy of the one exported bundle whose manifest says something else."""
    shutil.copytree(folder / "bundle", out / "bundle")
    file = out / "bundle" / MANIFEST
    manifest = decode_manifest(file.read_bytes())
    file.unlink()
    write_manifest(out / "bundle", msgspec.structs.replace(manifest, **changes))
    return out / "bundle"


def gallery(folder, name="gallery", **changes):
    latents = np.random.default_rng(4).standard_normal((6, 4, 12)).astype(np.float32)
    ids = [f"image-{i}" for i in range(6)]
    arguments = {"latents": latents, "ids": ids, "labels": ["x", "y"] * 3}
    write_gallery(folder / name, **(arguments | changes))
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("live")
    models.export(random_model(BETAS), place / "bundle", backbone=PICTURES)
    gallery(place)
    return place


@pytest.fixture
def decoder(folder):
    with open_decoder(folder / "bundle", folder / "gallery", threads=1) as opened:
        yield opened


def test_betas_of_others_are_never_served(folder, tmp_path):
    external = ExternalEstimator(
        name="offline", detail="whole runs", normalisation="pooled-train"
    )
    bundle = altered(folder, tmp_path, estimator=external)

    with pytest.raises(BundleError, match=r"estimator: .* found betas of others, off"):
        open_decoder(bundle, folder / "gallery")
    # Nor by a program that puts the parts together itself.
    with (
        open_bundle(bundle) as opened,
        open_model(opened) as model,
        pytest.raises(BundleError, match="computed volume by volume"),
    ):
        RunDecoder(opened, open_gallery(folder / "gallery"), model)


def shape():
    return random_model(BETAS).preprocessing.mask.shape


def geometry():
    return RunGeometry("run", shape(), TR_S, VOLUMES)


def volumes(seed=0):
    rng = np.random.default_rng(seed)
    level = rng.uniform(500, 1500, shape())
    noise = 5 * rng.standard_normal((VOLUMES, *shape()))
    return np.rint(level + noise).astype(np.int16)


def recorded(folder):
    file = folder / "run_bold.nii.gz"
    data = np.moveaxis(volumes(), 0, -1)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), file)
    return RecordedRun("run", TR_S, shape(), np.eye(4), EVENTS, (None,) * VOLUMES, file)


def decode(decoder, run, told=None):
    plain = RunGeometry(run.run_id, run.shape, run.tr_s, run.volume_count)
    decoder.start_run(plain if told is None else told)
    reports, data = [], run.volumes()
    for item in timeline(run):
        if isinstance(item, RecordedEvent):
            decoder.add_trial(Trial(item.trial_id, item.onset_s, item.duration_s))
        else:
            reports += decoder.add_volume(item, data[item])[1]
    return reports + list(decoder.end_run())


def test_what_was_learned_on_is_what_is_served_bit_for_bit(decoder, tmp_path):
    run = recorded(tmp_path)
    mask = VoxelMask.from_volume(random_model(BETAS).preprocessing.mask)

    features = trial_betas(Recording(tmp_path, (run,), mask), BETAS)

    live = [r for r in decode(decoder, run) if r.beta is not None]
    assert [r.trial_id for r in live] == [e.trial_id for e in features.events]
    for report, beta in zip(live, features.betas, strict=True):
        assert report.beta.tobytes() == beta.tobytes()


def with_tensor(bundle, name, array):
    """Add a tensor to a bundle's file, and list it anew."""
    file, manifest = bundle / TENSORS, decode_manifest((bundle / MANIFEST).read_bytes())
    tensors = load_file(file) | {name: array}
    save_file(tensors, file)
    (bundle / MANIFEST).unlink()
    spec = TensorSpec(name=name, shape=array.shape, dtype=array.dtype.name)
    changes = {"tensors": (*manifest.tensors, spec), "files": seal(bundle)}
    write_manifest(bundle, msgspec.structs.replace(manifest, **changes))


def test_what_was_learned_on_is_served_bit_for_bit_whatever_the_options(
    folder, tmp_path
):
    options = msgspec.structs.replace(
        BETAS,
        smoothing_fwhm_mm=4.0,
        spike_ratio=1.5,
        has_slice_times=True,
        hrf_library=(Hrf(), Hrf(peak_s=4.5)),
    )
    bundle = altered(folder, tmp_path, estimator=options)
    mask = VoxelMask.from_volume(random_model(BETAS).preprocessing.mask)
    hrf_index = np.arange(mask.voxels, dtype=np.int64) % 2
    with_tensor(bundle, "hrf_index", hrf_index)
    times_s = tuple(np.linspace(0, 0.9, shape()[2]).tolist())
    run = dataclasses.replace(
        recorded(tmp_path), affine=np.diag([2.0, 2, 2, 1]), slice_times_s=times_s
    )

    features = trial_betas(
        Recording(tmp_path, (run,), mask), options, hrf_index=hrf_index
    )

    told = dataclasses.replace(geometry(), slice_times_s=times_s)
    with open_decoder(bundle, folder / "gallery", threads=1) as opened:
        live = [r for r in decode(opened, run, told) if r.beta is not None]
        with pytest.raises(ConfigError, match="run run: expected the times of its sl"):
            opened.start_run(geometry())
    assert len(live) == len(features) == 7
    for report, beta in zip(live, features.betas, strict=True):
        assert report.beta.tobytes() == beta.tobytes()


def test_an_answer_is_the_models_with_the_bundles_units_and_gallery(decoder, tmp_path):
    reports = decode(decoder, recorded(tmp_path))

    model, space = decoder.model, random_model(BETAS).preprocessing.space
    assert [r.answer.decision for r in reports] == ["ANSWER"] * 7
    for report in reports:
        features = space.to_model(report.beta)
        z_v = model.decode_latent(model.encode_voxels(features))
        # The bundle keeps `rest` of the whitening in float32.
        np.testing.assert_allclose(report.z_v, z_v, rtol=1e-3, atol=1e-3)
        backbone = PatchDct(image_size=4, patch=2)
        np.testing.assert_array_equal(
            report.image, backbone.image_from_tokens(report.z_v)
        )
        latents, mean = decoder.gallery.latents, random_model(BETAS).latent_mean
        rows = (latents - mean).reshape(6, -1).astype(np.float64)
        query = (report.z_v - mean).ravel().astype(np.float64)
        cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
        best = report.answer.candidates[0]
        assert best.stimulus_id == f"image-{cosines.argmax()}"
        assert best.cosine == pytest.approx(cosines.max(), abs=1e-5)
        weights = np.exp(cosines / UNCALIBRATED_TEMPERATURE)
        assert report.answer.confidence == pytest.approx(
            weights.max() / weights.sum(), rel=1e-4
        )


def test_an_engine_that_fails_in_a_run_costs_no_answer_and_each_one_says_so(
    decoder, folder, tmp_path, monkeypatch
):
    run = recorded(tmp_path)
    wanted = decode(decoder, run)
    evaluate, calls = Evaluation.__call__, []

    def failing(evaluation, inputs):
        calls.append(1)
        # Two evaluations a trial: the third trial's first one is the first to fail.
        if len(calls) > 4:
            raise BackendError("reference: the device is gone")
        return evaluate(evaluation, inputs)

    with open_decoder(
        folder / "bundle",
        folder / "gallery",
        backend="reference",
        threads=1,
        behind=["ort"],
    ) as opened:
        monkeypatch.setattr(Evaluation, "__call__", failing)
        reports = decode(opened, run)

    assert [r.answer.label for r in reports] == [r.answer.label for r in wanted]
    for report, other in zip(reports, wanted, strict=True):
        np.testing.assert_allclose(report.z_v, other.z_v, rtol=1e-3, atol=1e-3)
    lines = tuple(
        f"ENGINE_FAILED {name}: reference: the device is gone; ort took over"
        for name in ("encoder", "decode_flow")
    )
    assert [r.degraded for r in reports] == [()] * 2 + [lines] * 5
    assert all(r.degraded == () for r in wanted)


def test_an_engine_that_fails_before_one_that_computes_wrongly_leaves_no_answer(
    folder, monkeypatch
):
    run = OrtEngine.run

    def gone(*_):
        raise BackendError("reference: the device is gone")

    def off(engine, inputs):
        return {name: 1.001 * array for name, array in run(engine, inputs).items()}

    with open_decoder(
        folder / "bundle", folder / "gallery", backend="reference", behind=["ort"]
    ) as opened:
        monkeypatch.setattr(Evaluation, "__call__", gone)
        monkeypatch.setattr(OrtEngine, "run", off)
        opened.start_run(geometry())
        opened.add_trial(Trial("a", 6.0, 1.0))
        reports = []
        for i, volume in enumerate(volumes()[:16]):
            reports += opened.add_volume(i, volume)[1]

    (report,) = reports
    assert (report.answer.decision, report.z_v) == ("ABSTAIN", None)
    assert report.answer.reason == "no engine computes"
    (said,) = report.degraded
    assert said.startswith(
        "ENGINE_FAILED reference: the device is gone; golden encoder (ort f32): "
        "expected relative L2"
    )


def test_a_run_leaves_nothing_behind_for_the_next(decoder, tmp_path):
    run = recorded(tmp_path)

    first, second = decode(decoder, run), decode(decoder, run)

    assert [r.answer for r in first] == [r.answer for r in second]


def test_every_identity_that_an_outcome_cites_is_there(decoder, folder):
    with open_bundle(folder / "bundle") as bundle:
        assert decoder.bundle_sha256 == bundle.sha256
        assert decoder.preprocessing_sha256 == bundle.manifest.preprocessing_sha256
    assert decoder.gallery_sha256 == decoder.gallery.sha256


def test_before_a_run_starts_there_is_nothing_to_decode(decoder):
    calls = [
        lambda: decoder.add_trial(Trial("a", 1.0, 1.0)),
        lambda: decoder.add_volume(0, volumes()[0]),
        lambda: decoder.skip_volume(0),
        decoder.end_run,
    ]
    for call in calls:
        with pytest.raises(UsageError) as error:
            call()
        assert str(error.value) == "decoder: expected start_run first, found no run"


def test_a_run_of_another_shape_is_refused(decoder):
    with pytest.raises(TensorMismatchError, match=r"run other: expected volumes "):
        decoder.start_run(RunGeometry("other", (2, 2, 2), TR_S, VOLUMES))


def test_the_encoder_predicts_in_percent_signal_what_the_model_does(decoder):
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)

    predicted = decoder.encoder().predict(image)

    z_v = PatchDct(image_size=4, patch=2).tokens_from_image(image)
    model = decoder.model
    features = model.predict_voxels(model.encode_latent(z_v))
    space = random_model(BETAS).preprocessing.space
    np.testing.assert_allclose(
        predicted, space.from_model(features), rtol=1e-4, atol=1e-4
    )


def test_a_server_opens_what_it_answers_with_and_answers_the_same(
    folder, decoder, tmp_path
):
    with open_decoder(
        folder / "bundle", folder / "gallery", threads=1, parts=SERVED
    ) as served:
        assert served.model.graphs == ("encoder", "decode_flow")
        found = decode(served, recorded(tmp_path))
        with pytest.raises(UsageError) as error:
            served.encoder()
    # Neither is asked for the retrieval features.
    assert decoder.model.graphs == BOTH_WAYS
    wanted = decode(decoder, recorded(tmp_path))

    for one, other in zip(found, wanted, strict=True):
        assert one.answer == other.answer
        np.testing.assert_array_equal(one.z_v, other.z_v)
    assert str(error.value) == (
        "encoder: expected a decoder that was opened with all parts, found one without "
        "decoder and encode_flow"
    )


def test_a_calibrated_gallery_answers_with_its_temperature(folder, tmp_path):
    with open_bundle(folder / "bundle") as bundle:
        fitted = Confidence(bundle_sha256=bundle.sha256, temperature=2.0)
    warm = gallery(tmp_path, confidence=fitted)

    with open_decoder(folder / "bundle", warm, threads=1) as opened:
        report = decode(opened, recorded(tmp_path))[0]

    # Six cosines between -1 and 1 at a temperature of 2 are close to chance.
    assert 1 / 6 <= report.answer.confidence < 1 / 6 * np.e


def test_a_calibration_for_another_bundle_is_refused(folder, tmp_path):
    other = gallery(
        tmp_path, confidence=Confidence(bundle_sha256="0" * 64, temperature=1.0)
    )

    with pytest.raises(BundleError, match="expected a calibration for bundle "):
        open_decoder(folder / "bundle", other, threads=1)


def test_a_gallery_of_other_latents_is_refused(folder, tmp_path):
    latents = np.zeros((6, 5, 12), dtype=np.float32)

    with pytest.raises(BundleError, match=r"expected 4 x 12 as in the bundle, found 5"):
        open_decoder(folder / "bundle", gallery(tmp_path, latents=latents), threads=1)


def test_a_confidence_below_the_limit_abstains(folder, tmp_path):
    with open_decoder(
        folder / "bundle", folder / "gallery", threads=1, abstain_below=1.0
    ) as opened:
        reports = decode(opened, recorded(tmp_path))

    assert {r.answer.reason for r in reports} == {"confidence below 1"}


def test_latents_that_are_no_images_decode_and_have_no_encoder(folder, tmp_path):
    features = BackboneSpec(name="open_clip", image_size=4, patch=2)
    bundle = altered(folder, tmp_path, backbone=features)

    with open_decoder(bundle, folder / "gallery", threads=1) as opened:
        report = decode(opened, recorded(tmp_path))[0]
        with pytest.raises(UsageError) as error:
            opened.encoder()

    assert report.answer.decision == "ANSWER"
    assert report.image is None
    assert str(error.value) == (
        "encoder: expected a bundle whose latents are images, found backbone open_clip"
    )


def test_a_backbone_that_gives_other_latents_is_refused_before_any_run(
    folder, tmp_path
):
    larger = BackboneSpec(name="patch_dct", image_size=8, patch=2)
    bundle = altered(folder, tmp_path, backbone=larger)

    with pytest.raises(BundleError) as error:
        open_decoder(bundle, folder / "gallery", threads=1)

    assert str(error.value) == (
        "backbone: expected 4 x 12 latents as the model's, found 4 x 48"
    )


def test_a_volume_bundle_answers_volumes_and_no_trials(folder, tmp_path):
    estimator = VolumeEstimator(warming_volumes=2)
    bundle = altered(folder, tmp_path, estimator=estimator, input_kind="volume")

    with open_decoder(bundle, folder / "gallery", threads=1) as opened:
        opened.start_run(geometry())
        with pytest.raises(UsageError):
            opened.add_trial(Trial("a", 1.0, 1.0))
        reports = [opened.add_volume(i, v)[0] for i, v in enumerate(volumes()[:5])]
        assert opened.skip_volume(5) == ()
        assert opened.end_run() == ()

    decisions = [report.answer.decision for report in reports]
    assert decisions == ["WARMING"] * 2 + ["ANSWER"] * 3
