"""`neuroflow evaluate --bundle` on a small participant: everything that can be had."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from runtime.bundle import open_bundle
from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator
from runtime.model import open_model
from runtime.patch_dct import PatchDct
from runtime.recording import open_recording, regions_file
from tests import in_process
from tests.models import tiny_bundle
from tests.participants import tiny_participant, with_buttons
from training.config import config_from_preset
from training.dataset import open_dataset
from training.metrics.report import from_json
from training.metrics.result import Absent, Value
from training.metrics.voxels import image_means
from training.shown import shown_pictures
from verbs.bundle_trials import read_trials
from verbs.other_trials import others_of_recording
from verbs.pipeline import build

pytestmark = pytest.mark.slow


def small_bundle(out, dataset, seed=0):
    config = config_from_preset("demo", voxels=dataset.recording.mask.voxels)
    config = replace(
        config,
        vae_training=replace(config.vae_training, epochs=6, batch=16, seed=seed),
        flow_training=replace(config.flow_training, steps=60, batch=16, seed=seed),
    )
    return build(dataset, config, out).bundle


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(
        tiny_participant(),
        BetaEstimator(),
        PatchDct(),
        splits=("train", "calibration", "test"),
    )


@pytest.fixture(scope="module")
def bundle(dataset, tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("own"), dataset)


@pytest.fixture(scope="module")
def external(dataset, tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("external"), dataset, seed=7)


def said(*arguments):
    """Run the verb in this process; return status, output and error."""
    return in_process.said("evaluate", *arguments)


@pytest.fixture(scope="module")
def evaluated(bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    status, text, error = said(
        "--bundle", bundle, "--recording", tiny_participant(), "--out", out
    )
    assert status == 0, error
    return out, text, from_json((out / "evaluation.json").read_bytes())


def by(rows, **wanted):
    (row,) = [r for r in rows if all(getattr(r, k) == v for k, v in wanted.items())]
    return row


def test_the_verb_says_what_it_wrote_and_every_figure_of_the_split(evaluated):
    out, text, result = evaluated

    assert text == (out / "evaluation.md").read_text()
    assert (result.trials, result.images, result.repeats) == (36, 12, 3)
    assert [row.trials for row in result.reconstructions] == [
        "single",
        "averaged",
        "averaged",
    ]
    assert isinstance(result.external, Absent)
    assert "| MindEye2 | 0.322 |" in text
    assert "self-consistency" in text
    for row in result.reconstructions:
        assert isinstance(row.pixcorr, Value)
        assert isinstance(row.ssim, Value)
        # Nothing can be downloaded here, and nothing was asked for.
        assert isinstance(row.clip, Absent)
    assert "absent" in text
    assert "inception_v3_google" in text.split("## Absent")[1]


def test_events_that_show_no_picture_are_left_out_and_counted(bundle, tmp_path):
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    pressed = with_buttons(folder)
    lines = []

    with open_bundle(bundle) as opened:
        found = read_trials(folder, opened, "test", say=lines.append)
        wanted = read_trials(tiny_participant(), opened, "test")

    assert lines == [f"events left out: {pressed} without a picture"]
    np.testing.assert_array_equal(found.betas, wanted.betas)
    # Regions by label; one stands beside all voxels.
    assert list(found.rois)[1:3] == ["V1", "V2"]


def test_the_bundles_participant_is_judged_where_the_folder_has_several(
    bundle, tmp_path
):
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    own = next(folder.glob("sub-*"))
    second = shutil.copytree(own, folder / "sub-second")
    for file in sorted(second.rglob("sub-*")):
        file.rename(file.with_name(file.name.replace(own.name, second.name)))

    with open_bundle(bundle) as opened:
        found = read_trials(folder, opened, "test")
        others = others_of_recording(folder, opened, "test")
        wanted = others_of_recording(tiny_participant(), opened, "test")

    assert found.repeats == 3
    assert (others.split, others.is_learned) == ("calibration", False)
    np.testing.assert_array_equal(others.trials.betas, wanted.trials.betas)


def test_pictures_of_the_split_that_were_trained_on_are_told(bundle, tmp_path):
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    whole = shown_pictures(open_recording(folder))
    learned = sorted(whole.of("train") - whole.of("test"))
    file = next(f for f in folder.rglob("*_events.tsv") if "\ttest" in f.read_text())
    head, first, *rows = file.read_text().splitlines()
    cells = first.split("\t")
    cells[head.split("\t").index("stim_id")] = learned[0]
    cells[head.split("\t").index("stim_file")] = f"{learned[0]}.png"
    file.write_text("\n".join([head, "\t".join(cells), *rows]) + "\n")
    judged = shown_pictures(open_recording(folder)).of("test")
    lines = []

    with open_bundle(bundle) as opened:
        read_trials(folder, opened, "test", say=lines.append)

    assert lines == [
        f"WARNING: 1 of {len(judged)} pictures of split test were trained on: these "
        "figures are not those of new pictures"
    ]


def test_regions_of_another_space_are_refused_before_anything_is_estimated(
    bundle, tmp_path
):
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    file = regions_file(open_recording(folder))
    image = nib.load(file)
    affine = image.affine.copy()
    affine[0, 3] += 2
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), file)
    estimated = []

    with (
        open_bundle(bundle) as opened,
        pytest.raises(RecordingError, match=r"affine: expected the space of .* 2 mm"),
    ):
        read_trials(
            folder, opened, "test", lambda done, total: estimated.append((done, total))
        )

    assert estimated == []


def test_figures_agree_with_a_second_way_to_compute_them(evaluated, bundle, dataset):
    _, _, result = evaluated
    test = dataset.betas.select("test")
    rows = dataset.rows(test)
    means, _ = image_means(test.betas, rows)
    images = np.unique(rows)

    with open_bundle(bundle) as opened, open_model(opened) as model:
        space, backbone = opened.feature_space(), dataset.backbone
        decoded = np.stack(
            [
                model.decode_latent(model.encode_voxels(row))
                for row in space.to_model(means.astype(np.float32))
            ]
        )
        predicted = np.stack(
            [
                model.predict_voxels(model.encode_latent(dataset.latents[image]))
                for image in images
            ]
        )
        centre = opened.latent_mean
    a = (decoded - centre).reshape(12, -1)
    b = (dataset.latents[images] - centre).reshape(12, -1)
    cosines = (a / np.linalg.norm(a, axis=1)[:, None]) @ (
        b / np.linalg.norm(b, axis=1)[:, None]
    ).T
    hits = (cosines.argmax(axis=1) == np.arange(12)).mean()
    row = by(
        result.retrieval,
        source="decoded latents",
        trials="averaged",
        is_mean_subtracted=True,
    )
    assert row.candidates == 12
    assert row.forward.mean == pytest.approx(hits)
    assert row.forward.chance == pytest.approx(1 / 12)
    assert "expected at least 300 images, found 12" in row.published_forward.reason

    percent = space.from_model(predicted)
    correlations = [
        np.corrcoef(percent[:, voxel], means[:, voxel])[0, 1]
        for voxel in range(means.shape[1])
    ]
    encoding = by(result.encoding, trials="averaged")
    whole = encoding.rois[0]
    assert whole.roi == "all voxels"
    assert whole.correlation.mean == pytest.approx(np.mean(correlations), abs=1e-4)
    assert {roi.roi for roi in encoding.rois} >= {"V1", "SUP"}
    assert sum(roi.voxels for roi in encoding.rois[1:]) == whole.voxels

    pixels = [backbone.image_from_tokens(z) for z in decoded]
    averaged = result.reconstructions[1]
    wanted = [
        np.corrcoef(p.ravel(), dataset.stimuli.pixels[i].ravel())[0, 1]
        for p, i in zip(pixels, images, strict=True)
    ]
    # At 425 pixels the papers' bilinear resizing blurs what 32 pixels have.
    assert averaged.pixcorr.mean == pytest.approx(np.mean(wanted), abs=0.1)


def test_the_spread_of_sampled_trials_stands_beside_that_of_repeats(evaluated):
    _, text, result = evaluated

    alone, whole = result.spread
    assert "split calibration, which the model has not seen" in result.spread_from
    for row in (alone, whole):
        for figure in (row.coverage, row.repeat_ratio, row.error_ratio):
            assert figure.low <= figure.mean <= figure.high
            assert figure.n == 12
    # What the latents leave out of a trial is noise that only whole samples hold.
    assert alone.repeat_ratio.mean < 0.7 * whole.repeat_ratio.mean
    assert alone.coverage.mean < whole.coverage.mean
    # Residuals of few trials, of other runs, know a test trial's variance roughly.
    assert whole.error_ratio.mean == pytest.approx(1, abs=0.4)
    assert 0.8 < whole.coverage.mean < 0.98
    assert "| latents and what they leave out | " in text


def test_predictions_at_random_are_at_chance_within_the_interval(evaluated):
    _, _, result = evaluated

    controls = {control.metric: control.value for control in result.controls}
    for name in ("retrieval, forward", "encoding, r across images"):
        value = controls[name]
        assert value.low <= value.chance <= value.high
    assert controls["PixCorr"].chance is None


def test_pictures_of_the_figures_are_written(evaluated):
    out, _, _ = evaluated

    with Image.open(out / "contact.png") as sheet:
        assert sheet.width > 500
        assert len(sheet.getcolors(maxcolors=10**6) or []) > 50
    for name in ("voxels_r", "voxels_regions", "voxels_category"):
        for theme in ("light", "dark"):
            with Image.open(out / f"{name}_{theme}.png") as drawn_map:
                assert len(drawn_map.getcolors(maxcolors=10**6) or []) > 8
    for name in ("rois.svg", "selectivity.svg"):
        drawn = (out / name).read_text()
        assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert "V1" in drawn


@pytest.fixture(scope="module")
def crossed(bundle, external):
    status, text, error = said(
        "--bundle", bundle, "--recording", tiny_participant(),
        "--external", external, "--json",
    )  # fmt: skip
    assert status == 0, error
    return from_json(text.encode())


def test_an_external_decoder_is_kept_apart_from_the_own_one(external, crossed):
    result = crossed

    with open_bundle(external) as opened:
        assert result.external == opened.sha256
    rows = [r for r in result.reconstructions if r.source == "predicted responses"]
    assert [row.decoder for row in rows] == ["own", "external"]
    assert rows[0].pixcorr.mean != rows[1].pixcorr.mean
    named = {row.source for row in result.retrieval if row.decoder == "external"}
    assert named == {"predicted responses"}
    encoded = by(result.reconstructions, source="external encoder's responses")
    assert encoded.decoder == "own"
    assert encoded.pixcorr.mean not in {row.pixcorr.mean for row in rows}


def test_our_decoder_reads_what_an_independent_encoder_predicts(
    bundle, external, dataset, crossed
):
    row = by(crossed.retrieval, source="external encoder's responses")

    images = np.unique(dataset.rows(dataset.betas.select("test")))
    z_v = dataset.latents[images]
    with open_bundle(external) as theirs, open_model(theirs) as encoder:
        said_by = theirs.feature_space().from_model(
            np.stack([encoder.predict_voxels(encoder.encode_latent(z)) for z in z_v])
        )
    with open_bundle(bundle) as ours, open_model(ours) as model:
        centre = ours.latent_mean
        decoded = np.stack(
            [
                model.decode_latent(model.encode_voxels(v))
                for v in ours.feature_space().to_model(said_by)
            ]
        )
    a, b = ((x - centre).reshape(len(z_v), -1) for x in (decoded, z_v))
    a, b = (x / np.linalg.norm(x, axis=1)[:, None] for x in (a, b))
    hits = ((a @ b.T).argmax(axis=1) == np.arange(len(z_v))).mean()
    assert (row.decoder, row.is_mean_subtracted) == ("own", True)
    assert row.forward.mean == pytest.approx(hits)


def test_wrong_usage_is_one_line(bundle, tmp_path):
    recording = tiny_participant()

    same = said("--bundle", bundle, "--recording", recording, "--external", bundle)
    assert same[0] == 2
    assert "independently trained" in same[2]
    both = said("--bundle", bundle, "--recording", recording, "--leave-one-run-out")
    assert both[0] == 2
    assert "found both" in both[2]
    weights = said(
        "--bundle", bundle, "--recording", recording, "--weights", "vgg=x.pt"
    )  # fmt: skip
    assert weights[0] == 2
    assert "found vgg=x.pt" in weights[2]
    split = said("--bundle", bundle, "--recording", recording, "--split", "tset")
    assert split[0] == 1
    assert (
        "expected runs of split tset, found calibration, live, test, train"
        in (split[2])
    )
    other = said("--bundle", tiny_bundle(), "--recording", recording)
    assert other[0] in (1, 2)
    assert "found" in other[2]
