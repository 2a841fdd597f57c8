"""What a bundle makes of many responses, a few of them in memory at a time."""

import numpy as np
import pytest

from runtime.bundle import open_bundle
from runtime.model import Model, open_model
from tests.models import served_bundle
from training.metrics.retrieval import similarities
from verbs import split_trials
from verbs.split_trials import BundleMaps, Question

pytestmark = pytest.mark.slow

ROWS, IMAGES = 7, 4


@pytest.fixture(scope="module")
def maps():
    with open_bundle(served_bundle()) as bundle, open_model(bundle, "ort") as model:
        yield BundleMaps(bundle, model)


@pytest.fixture(scope="module")
def betas(maps):
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, maps.space.affine.mean.size)).astype(np.float32)


def questions(maps):
    rng = np.random.default_rng(1)
    centre = maps.bundle.latent_mean
    items = rng.standard_normal((IMAGES, *centre.shape)).astype(np.float32)
    return [
        Question("decoded latents", "latents", items, centre, None, False),
        Question("retrieval features", "retrieval", items, None, centre, True),
    ]


@pytest.mark.parametrize("at_once", [1, 3, ROWS, 64])
def test_answers_do_not_depend_on_how_many_rows_are_held(
    maps, betas, monkeypatch, at_once
):
    monkeypatch.setattr(split_trials, "AT_ONCE", at_once)
    asked, counted = questions(maps), []

    found = maps.decode(
        betas, asked, lambda *said: counted.append(said), keeps_latents=True
    )

    model, rows = maps._model, maps.space.to_model(betas)
    z_v = np.stack([model.decode_latent(model.encode_voxels(row)) for row in rows])
    features = np.stack([model.project_voxels(row) for row in rows])
    parts = {"latents": z_v, "retrieval": features}
    np.testing.assert_array_equal(found.latents, z_v)
    assert counted == [(row, ROWS) for row in range(1, ROWS + 1)]
    assert [question for question, _ in found.answers] == asked
    for question, cosines in found.answers:
        wanted = similarities(
            parts[question.part],
            question.items,
            query_mean=question.query_mean,
            item_mean=question.item_mean,
        )
        np.testing.assert_allclose(cosines, wanted, rtol=1e-12, atol=1e-15)
    assert found.pictures is None


def test_features_that_nobody_asks_for_are_not_computed(maps, betas, monkeypatch):
    monkeypatch.delattr(Model, "project_voxels")

    found = maps.decode(betas, questions(maps)[:1])

    assert len(found.answers) == 1
    with pytest.raises(AttributeError, match="project_voxels"):
        maps.decode(betas, questions(maps))


def test_latents_that_nobody_asks_for_are_let_go(maps, betas):
    assert maps.decode(betas, questions(maps)).latents is None
