"""Fewer bits may change what retrieval finds by no more than chance would."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from export.retrieval import Change, blends, change, ranks
from runtime.errors import ParityError


def latents(items, seed=0):
    return np.random.default_rng(seed).normal(size=(items, 3, 4))


def test_a_latent_that_is_its_own_item_comes_first_and_one_turned_round_last():
    gallery = latents(7)

    np.testing.assert_array_equal(ranks(gallery, gallery), 1)
    mean = gallery.mean(axis=0)
    np.testing.assert_array_equal(ranks(2 * mean - gallery, gallery), 7)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_ranks_are_those_of_the_sorted_cosines_at_any_length(seed, scale):
    gallery, rng = latents(6, 1), np.random.default_rng(seed)
    mean = gallery.mean(axis=0)
    found = gallery + rng.normal(size=gallery.shape)

    placed = ranks(mean + scale * (found - mean), gallery)

    items = (gallery - mean).reshape(6, -1)
    items /= np.linalg.norm(items, axis=1)[:, None]
    for i, row in enumerate((found - mean).reshape(6, -1)):
        order = list(np.argsort(-(items @ row)))
        assert placed[i] == order.index(i) + 1


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_finds_nothing(broken):
    gallery = latents(5)
    found = gallery.copy()
    found[2, 1, 1] = broken

    assert ranks(found, gallery).tolist() == [1, 1, 5, 1, 1]


def test_two_equal_items_are_both_behind_the_other():
    gallery = latents(4)
    gallery[3] = gallery[0]

    assert ranks(gallery, gallery).tolist() == [2, 1, 1, 2]


def test_only_what_changed_counts():
    before, after = np.array([1, 1, 2, 5, 1]), np.array([1, 2, 1, 4, 9])

    assert change(before, after) == Change(items=5, lost=2, won=1)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_gate_is_the_exact_test_of_mcnemar(lost, won):
    found = Change(items=200, lost=lost, won=won)

    is_noise = (
        lost + won == 0
        or binomtest(lost, lost + won, 0.5, alternative="greater").pvalue > 0.05
    )
    assert (lost <= found.allowed) == is_noise


def test_more_lost_than_chance_explains_is_no_bundle():
    gate = Change(items=32, lost=4, won=0).gate("trained.int8.ranks", "int8")

    assert (gate.metric, gate.limit, gate.reached) == ("lost", 4.0, 4.0)
    with pytest.raises(ParityError) as caught:
        Change(items=32, lost=6, won=0).gate("trained.int8.ranks", "int8")
    assert str(caught.value) == (
        "trained.int8.ranks: expected retrieval unchanged within noise, at most 5 "
        "lost, found 6 of 32 lost and 0 won"
    )


def test_blends_are_as_long_as_the_trials_they_are_made_of():
    voxels = np.random.default_rng(0).normal(size=(3, 50))

    found = blends(voxels, 8, 0)

    assert np.linalg.matrix_rank(found) == 3
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=1), np.linalg.norm(voxels, axis=1).mean()
    )
