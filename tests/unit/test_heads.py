"""Retrieval ranks by centred cosine; its confidence is a calibrated probability."""

import tracemalloc

import numpy as np
import pytest

from runtime.errors import TensorMismatchError
from runtime.heads import Retrieval, fit_temperature, softmax

TOKENS, WIDTH = 3, 5


def latents(items, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((items, TOKENS, WIDTH)).astype(np.float32)


def names(items):
    return [f"image-{i}" for i in range(items)], [
        f"label-{i % 4}" for i in range(items)
    ]


def retrieval(gallery, mean=None, **changes):
    ids, labels = names(len(gallery))
    zero = np.zeros((TOKENS, WIDTH), dtype=np.float32)
    arguments = {"mean": zero if mean is None else mean, "temperature": 0.1}
    return Retrieval(gallery, ids, labels, **(arguments | changes))


def test_an_item_wins_for_its_own_latent():
    gallery = latents(40)

    answers = [retrieval(gallery).answer(z_v) for z_v in gallery]

    best = [answer.candidates[0] for answer in answers]
    assert [c.stimulus_id for c in best] == names(40)[0]
    assert [answer.label for answer in answers] == names(40)[1]
    # A dot product of 15 float32 unit coordinates.
    assert all(abs(c.cosine - 1) < 15 * np.finfo(np.float32).eps for c in best)


def test_cosines_are_those_of_float64_after_the_mean_was_taken_off_both_sides():
    gallery, mean, z_v = latents(12), latents(1, seed=1)[0] * 3, latents(1, seed=2)[0]

    found = retrieval(gallery, mean).cosines(z_v)

    rows = (gallery.astype(np.float64) - mean).reshape(12, -1)
    query = (z_v.astype(np.float64) - mean).ravel()
    wanted = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_without_the_mean_images_that_share_it_all_look_alike():
    mean = 50 * latents(1, seed=1)[0]
    gallery = latents(12) + mean

    shared = retrieval(gallery).cosines(gallery[0])
    centred = retrieval(gallery, mean).cosines(gallery[0])

    assert shared.min() > 0.99
    assert np.sort(centred)[-2] < 0.9


@pytest.mark.parametrize("scale", [1e-6, 0.5, 3.0, 1e6])
def test_the_length_of_a_latent_does_not_matter(scale):
    gallery, z_v = latents(12), latents(1, seed=2)[0]

    scaled = retrieval(gallery).cosines(np.float32(scale) * z_v)

    np.testing.assert_allclose(scaled, retrieval(gallery).cosines(z_v), atol=1e-6)


def test_the_length_of_an_item_does_not_matter():
    gallery, z_v = latents(12), latents(1, seed=2)[0]
    scales = np.logspace(-3, 3, 12).astype(np.float32)[:, None, None]

    np.testing.assert_allclose(
        retrieval(gallery * scales).cosines(z_v),
        retrieval(gallery).cosines(z_v),
        atol=1e-6,
    )


def test_equal_scores_keep_the_order_of_the_gallery():
    gallery = np.repeat(latents(2), 4, axis=0)[[0, 4, 1, 5, 2, 6, 3, 7]]

    answer = retrieval(gallery, top_k=8).answer(gallery[1])

    order = [c.stimulus_id for c in answer.candidates]
    assert order == [f"image-{i}" for i in (1, 3, 5, 7, 0, 2, 4, 6)]


def test_a_latent_without_direction_is_an_answer_of_pure_chance():
    mean = latents(1, seed=1)[0]

    answer = retrieval(latents(8), mean).answer(mean)

    assert [c.cosine for c in answer.candidates] == [0.0] * 5
    assert answer.confidence == pytest.approx(1 / 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_latent_that_is_not_finite_abstains(bad):
    z_v = latents(1, seed=2)[0]
    z_v[1, 2] = bad

    # Infinity over infinity is what is being caught.
    with np.errstate(invalid="ignore"):
        answer = retrieval(latents(8)).answer(z_v)

    assert (answer.decision, answer.reason) == ("ABSTAIN", "the latent is not finite")
    assert answer.candidates == ()
    assert answer.label is None
    assert answer.confidence is None


def test_confidence_is_the_probability_of_the_first_candidate():
    gallery, z_v = latents(12), latents(1, seed=2)[0]
    head = retrieval(gallery, temperature=0.2)

    answer = head.answer(z_v)

    logits = head.cosines(z_v).astype(np.float64) / 0.2
    wanted = 1 / np.exp(logits - logits.max()).sum()
    assert answer.confidence == pytest.approx(wanted, rel=1e-12)
    assert 1 / 12 < answer.confidence < 1
    cosines = [c.cosine for c in answer.candidates]
    assert cosines == sorted(cosines, reverse=True)


def test_an_answer_lists_no_more_candidates_than_there_are():
    assert len(retrieval(latents(3)).answer(latents(1)[0]).candidates) == 3


def test_a_softmax_row_sums_to_one_and_does_not_overflow():
    scores = np.array([[1.0, -1.0, 0.5], [0.0, 0.0, 0.0]], dtype=np.float32)

    cold, warm = softmax(scores, 1e-3), softmax(scores, 10.0)

    np.testing.assert_allclose(cold.sum(axis=1), 1.0, rtol=1e-15)
    np.testing.assert_allclose(cold[0], [1, 0, 0], atol=1e-200)
    np.testing.assert_allclose(warm[1], 1 / 3)


def simulated_cosines(temperature, trials=4000, items=20, seed=0):
    """Draw what is shown from the softmax itself, so that the truth is known."""
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-1, 1, (trials, items)).astype(np.float32)
    # The Gumbel-max trick draws from a softmax without our own.
    noisy = cosines / temperature + rng.gumbel(size=cosines.shape)
    return cosines, noisy.argmax(axis=1).astype(np.int64)


def negative_log_likelihood(cosines, shown, temperature):
    logits = cosines.astype(np.float64) / temperature
    return float(
        np.mean(
            np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(shown)), shown]
        )
    )


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_a_known_temperature_is_recovered_from_simulated_trials(temperature):
    # 4000 trials: the standard error at T = 1 is about 3 %, less where colder.
    assert fit_temperature(*simulated_cosines(temperature)) == pytest.approx(
        temperature, rel=0.1
    )


def test_calibration_lowers_the_negative_log_likelihood_of_trials_it_never_saw():
    fitted = fit_temperature(*simulated_cosines(0.3, seed=1))
    cosines, shown = simulated_cosines(0.3, seed=2)

    after = negative_log_likelihood(cosines, shown, fitted)

    assert after < negative_log_likelihood(cosines, shown, 0.1)
    assert after < negative_log_likelihood(cosines, shown, 1.0)


def test_calibrated_confidence_is_how_often_the_answer_is_right():
    cosines, shown = simulated_cosines(0.3, seed=3)
    fitted = fit_temperature(*simulated_cosines(0.3, seed=1))

    confidence = softmax(cosines, fitted).max(axis=1).mean()

    right = (cosines.argmax(axis=1) == shown).mean()
    # Binomial, 4000 trials: three standard errors are .024 at worst.
    assert confidence == pytest.approx(right, abs=0.024)


def test_the_temperature_stays_within_its_bounds():
    cosines, _ = simulated_cosines(0.2, trials=50)
    never = cosines.argmin(axis=1).astype(np.int64)
    always = cosines.argmax(axis=1).astype(np.int64)

    assert fit_temperature(cosines, never) == pytest.approx(10.0, rel=1e-3)
    assert 1e-3 <= fit_temperature(cosines, always) < 0.05


def test_a_gallery_that_contradicts_itself_is_refused():
    zero = np.zeros((TOKENS, WIDTH), dtype=np.float32)
    with pytest.raises(TensorMismatchError) as numbers:
        Retrieval(latents(3), ["a", "b"], ["x"] * 3, mean=zero, temperature=1.0)
    with pytest.raises(TensorMismatchError) as shapes:
        retrieval(latents(3), np.zeros((TOKENS, WIDTH + 1), dtype=np.float32))

    assert str(numbers.value) == (
        "gallery: expected 3 identities and labels, found 2 and 3"
    )
    assert str(shapes.value) == (
        "gallery.latents: expected items of shape (3, 6), found (3, 5)"
    )


def test_a_gallery_is_held_once_and_made_ready_item_by_item():
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((40, 100, 500), dtype=np.float32)
    mean = np.zeros((100, 500), np.float32)
    tracemalloc.start()
    try:
        search = retrieval(gallery, mean)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert search.cosines(gallery[7]).argmax() == 7
    assert gallery.nbytes < held < most < 1.1 * gallery.nbytes
