"""Results as tables: published rows beside ours, absent ones with their reason."""

import functools

import msgspec
import numpy as np
import pytest

from runtime.preprocess import AffineNormaliser
from training.metrics.controls import (
    encoding_control,
    pixel_control,
    retrieval_control,
    similarity_control,
)
from training.metrics.encoding import encoding_figures
from training.metrics.evaluation import Design, image_figures, retrieval_figures
from training.metrics.ledger import shared_draws
from training.metrics.published import ABLATIONS, DECODING, ENCODING
from training.metrics.published_tables import plain
from training.metrics.report import LEARNED, from_json, to_json, to_markdown
from training.metrics.result import (
    Absent,
    BundleEvaluation,
    NetworkRecord,
    Value,
)
from training.metrics.retrieval import similarities
from training.metrics.spread import spread_figures

IMAGES, REPEATS, VOXELS = 20, 3, 12
SHOWN = np.tile(np.arange(IMAGES), REPEATS)
ONCE, MEAN = Design.single(SHOWN), Design.averaged(np.arange(IMAGES))


def rng():
    return np.random.default_rng(0)


def pictures(seed=0, n=IMAGES):
    drawn = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3))
    return drawn.astype(np.uint8)


def latents(seed=0, n=IMAGES):
    return np.random.default_rng(seed).normal(size=(n, 3, 4)).astype(np.float32)


def encoded(design, *, rois=None, noise=1.0):
    truth = rng().normal(size=(IMAGES, VOXELS)).astype(np.float32)
    noisy = np.random.default_rng(1).normal(size=(len(SHOWN), VOXELS))
    betas = (truth[SHOWN] + noise * noisy).astype(np.float32)
    means = np.stack([betas[i == SHOWN].mean(axis=0) for i in range(IMAGES)])
    is_single = design is ONCE
    predicted = truth[SHOWN] if is_single else truth
    return encoding_figures(
        predicted,
        betas if is_single else means,
        design,
        rng(),
        units=AffineNormaliser(
            np.zeros(VOXELS, np.float32), np.full(VOXELS, 2, np.float32)
        ),
        rois=rois or {"all voxels": np.ones(VOXELS, bool)},
        repeats=betas,
        repeats_image=SHOWN,
        draws=shared_draws([str(i) for i in range(IMAGES)]),
    )


@functools.cache
def evaluation():
    reconstructions = [
        image_figures(
            pictures(n=4), pictures(1, n=4), Design.averaged(np.arange(4)), {}, rng(),
            source="measured responses", decoder="own",
        )
    ]  # fmt: skip
    return BundleEvaluation(
        bundle_sha256="a" * 64,
        external=Absent("no independently trained decoder was given (--external)"),
        recording="participant",
        subject="01",
        split="test",
        backend="none",
        trials=60,
        images=20,
        repeats=3,
        seed=0,
        reconstructions=reconstructions,
        retrieval=[
            retrieval_figures(
                similarities(latents(), latents()), MEAN, rng(),
                source="self-consistency", is_mean_subtracted=False,
            )
        ],
        encoding=[encoded(MEAN)],
        spread=spread_figures(
            pictures().reshape(IMAGES, -1)[:, :VOXELS].astype(np.float32),
            Absent("nothing was sampled"), np.zeros((60, VOXELS), np.float32),
            SHOWN, rng(), draws=np.ones((1, IMAGES)),
        ),
        controls=[retrieval_control(np.eye(20), 20, rng())],
        networks=[
            NetworkRecord(
                name="clip", title="CLIP", weights=None, sha256=None,
                absent=Absent("no weights"),
            )
        ],
        versions={},
    )  # fmt: skip


def test_json_gives_the_result_back():
    result = evaluation()

    assert from_json(to_json(result)) == result
    with pytest.raises(msgspec.ValidationError):
        from_json(b"{}")


def test_tables_show_ours_beside_the_published_and_say_what_is_absent_and_why():
    text = to_markdown(evaluation())

    for row in (*DECODING, *ENCODING):
        assert f"| {row.method} |" in text
    assert "| ours, averaged trials, measured responses, own decoder |" in text.replace(
        "*", ""
    )
    cells = next(line for line in text.splitlines() if "**ours" in line).split("|")
    assert [cell.strip() for cell in cells[4:10]] == ["absent"] * 6
    rest = text.split("## Absent")[1]
    assert "Alex(2) %, Alex(5) %, CLIP %, Eff (low is good)" in rest
    assert "this network was not asked for" in rest
    assert "expected at least 300 images, found 20" in rest
    assert "(--external)" in rest
    assert "| self-consistency, averaged trials, own | no | 20 | 100.0 [" in text
    before = text.split("| NeuroFlow without |")[0]
    assert before.rstrip().splitlines()[-3] == "## Published ablations"
    assert "trained on this split" not in text
    learned = msgspec.structs.replace(evaluation(), split="train")
    assert f"**{LEARNED}**" in to_markdown(learned).split("## Images")[0]
    assert "nothing was sampled" in rest
    # Every table row has as many cells as its head.
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("|---"):
            width = lines[i - 1].count("|")
            for row in lines[i + 1 :]:
                if not row.startswith("|"):
                    break
                assert row.count("|") == width, row


def test_published_rows_are_typed_marked_and_printed_with_their_own_digits():
    known = {row.method: row for row in DECODING}
    assert known["MindEye2"].clip == 93.0
    assert known["MindEye2, subject 1"].retrieval_forward == 99.96
    assert known["NeuroFlow"].mark == "third party"
    assert known["NeuroFlow"].pixcorr is None
    predicted = {row.method: row for row in ENCODING}
    assert predicted["SynBrain"].pearson == 0.687
    assert (predicted["NeuroFlow"].decoder, predicted["SynBrain"].decoder) == (
        "own",
        "MindEye2",
    )
    assert [row.synthetic for row in ABLATIONS] == [96.4, 90.4, 11.5, 88.9, 0.5, 14.1]
    assert [plain(v, 1) for v in (99.96, 95.0, None)] == ["99.96", "95.0", ""]
    assert [plain(v, 3) for v in (0.322, 0.41)] == ["0.322", "0.410"]


def test_encoding_figures_by_hand():
    found = encoded(MEAN, noise=0.0)

    # The prediction is the measurement, in units of 2.
    assert found.mse.mean == pytest.approx(0, abs=1e-12)
    assert found.pearson.mean == pytest.approx(1)
    (roi,) = found.rois
    assert (roi.voxels, roi.correlation.n) == (VOXELS, IMAGES)
    assert roi.correlation.mean == pytest.approx(1)
    assert roi.ceiling.mean == pytest.approx(1)
    assert roi.normalised.mean == pytest.approx(1)
    # Noise of deviation 1 over three trials, in units of 2: 1 / 3 / 4.
    assert encoded(MEAN).mse.mean == pytest.approx(1 / 12, rel=0.2)
    assert encoded(ONCE).mse.mean == pytest.approx(1 / 4, rel=0.2)


def test_single_trials_have_a_lower_ceiling():
    single, averaged = encoded(ONCE), encoded(MEAN)

    # sqrt(1 / 2) and sqrt(3 / 4), with 12 voxels of 20 images.
    assert single.rois[0].ceiling.mean == pytest.approx(0.5**0.5, abs=0.12)
    assert averaged.rois[0].ceiling.mean == pytest.approx(0.75**0.5, abs=0.1)
    assert single.rois[0].correlation.mean < averaged.rois[0].correlation.mean


def test_two_regions_keep_their_own_voxels():
    half = np.arange(VOXELS) < 4
    found = encoded(MEAN, rois={"A": half, "B": ~half})

    assert [(roi.roi, roi.voxels) for roi in found.rois] == [("A", 4), ("B", 8)]


def test_single_trials_are_judged_among_different_images_only():
    brain = latents()[SHOWN]
    found = retrieval_figures(
        similarities(brain, latents()), ONCE, rng(),
        source="decoded latents", is_mean_subtracted=False,
    )  # fmt: skip

    # Were the repeats of an image candidates against it, none would be first.
    assert found.candidates == IMAGES
    assert found.forward.mean == found.backward.mean == 1.0
    assert found.published_forward == Absent("expected at least 300 images, found 20")


def test_forward_is_brain_to_image_and_backward_the_other_way():
    # Two brains between the images, both nearer to image 0: forward, brain 1 is wrong;
    # backward, image 0 finds brain 0 and image 1 finds brain 1, both right.
    images = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32)
    brains = np.array([[[1.0, 0.1]], [[1.0, 0.9]]], np.float32)

    found = retrieval_figures(
        similarities(brains, images), Design.averaged(np.arange(2)), rng(),
        source="decoded latents", is_mean_subtracted=False,
    )  # fmt: skip

    assert (found.forward.mean, found.backward.mean) == (0.5, 1.0)


def test_controls_of_good_predictions_are_at_chance():
    decoded = latents() + 0.3 * latents(1)
    controls = [
        retrieval_control(similarities(decoded, latents()), IMAGES, rng()),
        encoding_control(decoded.reshape(IMAGES, -1), latents().reshape(20, -1), rng()),
    ]
    for control in controls:
        assert isinstance(control.value, Value)
        assert control.value.low <= control.value.chance <= control.value.high
        # 400 permutations: the mean is known to a twentieth of one's deviation.
        width = control.value.high - control.value.low
        assert control.value.mean == pytest.approx(control.value.chance, abs=width / 10)


@pytest.mark.slow
def test_controls_of_pixels_say_what_unrelated_images_give():
    same = pixel_control(pictures(), pictures(), rng())
    # Of 20 images, a permutation leaves one in its place: 1 / 20 of correlation 1.
    assert same.value.mean == pytest.approx(1 / 20, abs=0.03)
    similar = similarity_control(pictures(), pictures(), rng())
    assert similar.value.high < 0.9
