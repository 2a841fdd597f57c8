"""Images with different numbers of trials: each at its own ceiling, no trial lost."""

import numpy as np
import pytest

from runtime.preprocess import AffineNormaliser
from training.metrics.encoding import encoding_figures
from training.metrics.evaluation import Design, image_figures, retrieval_figures
from training.metrics.voxels import averaged_repeats, image_means, noise_ceiling

SHOWN = np.array([0, 0, 1, 1, 2])


def test_n_is_the_harmonic_mean_by_hand():
    # (1/2 + 1/2 + 1) / 3 = 2/3.
    assert averaged_repeats(SHOWN) == pytest.approx(1.5)
    assert averaged_repeats(np.repeat(np.arange(200), 3)) == pytest.approx(3)
    assert averaged_repeats(np.array([4])) == 1


def test_the_ceiling_of_unequal_repeats_by_hand():
    # Means of 0.5, 5.5 and 3: within repeats 4 * 0.25 / (5 - 3), in all 26 / 4 about 3.
    betas = np.array([[0], [1], [5], [6], [3]], np.float32)

    ceiling = noise_ceiling(betas, SHOWN, averaged_repeats(SHOWN))

    # Signal 6, noise 1/2 of a trial and 1/3 of the means.
    assert ceiling == pytest.approx([6 / (6 + 1 / 3)])


def normalised(shown, rng):
    """Return r over its ceiling of a predictor that knows the signal, 400 voxels."""
    signal = rng.standard_normal((shown.max() + 1, 400)).astype("f")
    betas = (signal[shown] + rng.standard_normal((len(shown), 400))).astype("f")
    found = encoding_figures(
        signal,
        image_means(betas, shown)[0].astype("f"),
        Design.averaged(np.arange(len(signal))),
        np.random.default_rng(0),
        units=AffineNormaliser(np.zeros(400, "f"), np.ones(400, "f")),
        rois={"all voxels": np.ones(400, bool)},
        repeats=betas,
        repeats_image=shown,
        draws=np.ones((1, len(signal))),
    )
    return found.rois[0].normalised.mean


@pytest.mark.parametrize("lost", [0, 2, 300])
def test_a_perfect_predictor_is_at_its_ceiling_whatever_trials_are_missing(lost):
    shown = np.repeat(np.arange(200), 3)
    # Two of every picture's three, picture by picture; its first always stays.
    missing = np.flatnonzero(np.arange(600) % 3 > 0)[:lost]

    found = normalised(np.delete(shown, missing), np.random.default_rng(3))

    # At the fewest trials of any image, 1, it came to 1.2 with two of them missing.
    assert found == pytest.approx(1, abs=0.02)


def test_every_single_trial_is_judged_once():
    design = Design.single(np.array([0, 1, 0, 1, 1, 2]))

    assert sorted(design.chosen) == list(range(6))
    assert design.about.tolist() == [0, 1, 2, 0, 1, 1]
    assert [len(rows) for rows in design.repetitions] == [3, 3, 3]


def test_retrieval_judges_every_trial_among_all_images():
    design = Design.single(np.array([0, 0, 1, 2]))
    # The first trial of picture 0 is taken for picture 2, the others are right.
    cosines = np.array([[0.1, 0, 0.9], [1, 0, 0], [0, 1, 0], [0, 0, 1]])

    found = retrieval_figures(
        cosines,
        design,
        np.random.default_rng(0),
        source="decoded latents",
        is_mean_subtracted=True,
    )

    assert found.candidates == 3
    assert found.forward.mean == pytest.approx(3 / 4)
    assert found.forward.chance == pytest.approx(1 / 3)


def test_pixcorr_has_no_chance_and_counts_every_trial():
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    design = Design.single(np.array([0, 0, 1]))

    found = image_figures(
        shown,
        np.stack([255 - shown[0], shown[0], shown[1]]),
        design,
        {},
        rng,
        source="measured responses",
        decoder="own",
    )

    # -1, 1 and 1; the first repetition alone gives 0.
    assert found.pixcorr.mean == pytest.approx(1 / 3, abs=1e-6)
    assert found.pixcorr.chance is None
