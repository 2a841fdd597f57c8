"""A bundle computes what the model computes in float64, or there is no bundle."""

import os

import msgspec
import numpy as np
import pytest
import torch

from export import package
from export.parity import REL_L2_LIMIT, Reference, Verdict, judge
from runtime.bundle import open_bundle
from runtime.errors import ArtifactError, ConfigError, ParityError, TensorMismatchError
from runtime.model import check_golden, golden_errors, open_model
from runtime.solver import SOLVERS
from tests.models import export, random_model, tiny_bundle

pytestmark = pytest.mark.slow

FORMS = [("ort", "unrolled"), ("ort", "step"), ("openvino", "step")]


@pytest.fixture(scope="module")
def bundle():
    with open_bundle(tiny_bundle()) as bundle:
        yield bundle


@pytest.fixture(scope="module")
def reference():
    model = random_model()
    steps = {"decode": 2, "encode": 2}
    assert model.config.centre_latents
    return Reference(
        model.vae, model.field, SOLVERS["rotation"], steps, centre=model.latent_mean
    )


@pytest.mark.parametrize(("backend", "form"), FORMS)
def test_both_whole_directions_are_within_the_limit(bundle, reference, backend, form):
    rng = np.random.default_rng(5)
    voxels = rng.normal(size=37).astype(np.float32)
    z_v = rng.normal(size=(8, 12)).astype(np.float32)
    with open_model(bundle, backend, threads=1, form=form) as model:
        decoded = model.decode_latent(model.encode_voxels(voxels))
        predicted = model.predict_voxels(model.encode_latent(z_v))

    z_n, _ = reference.encode_voxels(voxels[None])
    wanted = reference.flow(z_n, "decode")[0]
    assert judge("decode", wanted, decoded).rel_l2 <= REL_L2_LIMIT
    wanted = reference.predict_voxels(reference.flow(z_v[None], "encode"))[0]
    assert judge("encode", wanted, predicted).rel_l2 <= REL_L2_LIMIT


def test_looped_steps_are_the_unrolled_graph(bundle):
    z = np.random.default_rng(6).normal(size=(8, 12)).astype(np.float32)
    with (
        open_model(bundle, "ort", form="unrolled") as unrolled,
        open_model(bundle, "ort", form="step") as looped,
    ):
        for name in ("decode_latent", "encode_latent"):
            a, b = getattr(unrolled, name)(z), getattr(looped, name)(z)
            assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)


def test_bfloat16_opens_within_its_own_limit(bundle):
    with open_model(bundle, "openvino", "bf16", threads=1) as model:
        errors = golden_errors(model, bundle.golden())

    assert max(errors.values()) <= 5e-2


def test_a_result_belongs_to_the_caller(bundle):
    z = np.random.default_rng(7).normal(size=(8, 12)).astype(np.float32)
    with open_model(bundle) as model:
        first = model.decode_latent(z)
        kept = first.copy()
        model.decode_latent(-z)

    np.testing.assert_array_equal(first, kept)


def test_a_wrong_voxel_count_names_both_numbers(bundle):
    with open_model(bundle) as model, pytest.raises(TensorMismatchError) as caught:
        model.encode_voxels(np.zeros(36, np.float32))

    assert str(caught.value) == (
        "voxels: expected float32 [1, 37], found float32 [1, 36]"
    )


def test_the_manifest_keeps_every_gate_that_was_reached(bundle):
    gates = bundle.manifest.gates

    assert {gate.name.split(".")[0] for gate in gates} == {"stressed", "trained"}
    assert {gate.name.split(".")[1] for gate in gates} == {"ort", "openvino"}
    assert all(gate.reached <= gate.limit == REL_L2_LIMIT for gate in gates)


def test_golden_vectors_of_another_model_are_refused(bundle):
    golden = dict(bundle.golden())
    golden["z_v"] = golden["z_v"] * np.float32(1.001)
    with open_model(bundle) as model, pytest.raises(ParityError) as caught:
        check_golden(model, golden, 1e-5)

    assert str(caught.value).startswith("golden decode_flow (ort ")


def test_an_engine_that_is_wrong_leaves_no_bundle(tmp_path, monkeypatch):
    def wrong(field, times):
        return package_table(field, times) * 1.001

    from export import assemble

    package_table = assemble.conditioning_table
    monkeypatch.setattr(assemble, "conditioning_table", wrong)

    with pytest.raises(ParityError, match=r"stressed\.ort\.unrolled\.decode_flow"):
        export(random_model(), tmp_path / "bundle")

    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_never_replaced(tmp_path):
    (tmp_path / "bundle").mkdir()

    with pytest.raises(ArtifactError, match="expected no such folder yet"):
        export(random_model(), tmp_path / "bundle")


def test_a_solver_that_does_not_fit_the_path_is_refused(tmp_path):
    model = random_model()
    training = msgspec.structs.replace(model.config.flow_training, path="linear")
    config = msgspec.structs.replace(model.config, flow_training=training)
    other = type(model)(**(vars(model) | {"config": config}))

    with pytest.raises(ConfigError, match="expected path cos, found linear"):
        export(other, tmp_path / "bundle")


def test_a_mask_of_another_size_is_refused_before_anything_is_exported(tmp_path):
    model = random_model()
    model.preprocessing.mask[:] = True

    with pytest.raises(TensorMismatchError, match="mask: expected "):
        export(model, tmp_path / "bundle")


def test_a_result_that_is_not_finite_never_passes():
    found = np.array([1.0, np.nan])

    verdict = judge("x", np.ones(2), found)

    assert verdict.nonfinite == 1
    with pytest.raises(ParityError, match="x: expected relative L2 error"):
        verdict.gate()


def test_the_judge_measures_in_float64():
    wanted = np.array([3.0, 4.0])

    verdict = judge("x", wanted, wanted + np.array([0.0, 0.05]))

    assert verdict == Verdict("x", pytest.approx(0.01), pytest.approx(1, abs=1e-4), 0)


def test_export_leaves_the_model_as_it_was():
    model = random_model()
    before = {k: v.clone() for k, v in model.vae.state_dict().items()}
    tiny_bundle()
    package._fingerprint(model.field)

    for key, value in model.vae.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
