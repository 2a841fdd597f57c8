"""A bundle computes what the model computes in float64, or there is no bundle."""

import os

import msgspec
import numpy as np
import openvino
import pytest
import torch

from export import package
from export.parity import Reference
from runtime.bundle import open_bundle
from runtime.errors import (
    ArtifactError,
    ConfigError,
    ParityError,
    TensorMismatchError,
    UsageError,
)
from runtime.golden import (
    LIMITS,
    STATES,
    Verdict,
    check_golden,
    judge,
    map_verdicts,
    worst,
)
from runtime.model import open_model
from runtime.solver import SOLVERS
from tests.models import export, random_model, tiny_bundle

pytestmark = pytest.mark.slow

LIMIT = LIMITS["f32"].rel_l2
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
    assert judge("decode", wanted, decoded).rel_l2 <= LIMIT
    wanted = reference.predict_voxels(reference.flow(z_v[None], "encode"))[0]
    assert judge("encode", wanted, predicted).rel_l2 <= LIMIT


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
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in can:
        pytest.skip("not run: this processor does not compute in bfloat16")

    with open_model(bundle, "openvino", "bf16", threads=1) as model:
        verdicts = list(map_verdicts(model.maps(), bundle.golden()))

    assert max(verdict.rel_l2 for verdict in verdicts) <= 5e-2


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

    assert str(caught.value) == "voxels: expected float32 [37], found float32 [36]"


def test_the_manifest_keeps_every_gate_that_was_reached(bundle):
    gates = bundle.manifest.gates

    assert {gate.name.split(".")[0] for gate in gates} == {"stressed", "trained"}
    assert {gate.name.split(".")[2] for gate in gates} == {"ort", "openvino"}
    limits = {"rel_l2": LIMIT, "nonfinite": 0}
    assert {gate.metric for gate in gates} == limits.keys()
    assert all(gate.reached <= gate.limit == limits[gate.metric] for gate in gates)
    assert {gate.precision for gate in gates} == {"f32"}


def test_golden_vectors_of_another_model_are_refused(bundle):
    golden = dict(bundle.golden())
    golden["z_v"] = golden["z_v"] * np.float32(1.001)
    with open_model(bundle) as model, pytest.raises(ParityError) as caught:
        check_golden(model, golden, LIMITS["f32"], model.backend)

    assert str(caught.value).startswith("golden decode_flow (ort ")


def test_an_engine_that_is_wrong_leaves_no_bundle(tmp_path, monkeypatch):
    def wrong(field, times):
        return package_table(field, times) * 1.001

    from export import assemble

    package_table = assemble.conditioning_table
    monkeypatch.setattr(assemble, "conditioning_table", wrong)

    with pytest.raises(ParityError, match=r"stressed\.f32\.ort\.unrolled\.decode_flow"):
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
    for limits in LIMITS.values():
        assert not verdict.is_within(limits)
    with pytest.raises(ParityError) as caught:
        verdict.gates("bf16")
    assert str(caught.value) == (
        "x: expected relative L2 error <= 0.01 and cosine >= 0.9995, found relative "
        "L2 error inf, cosine nan, 1 non-finite"
    )


def test_the_judge_measures_in_float64():
    wanted = np.array([3.0, 4.0])

    verdict = judge("x", wanted, wanted + np.array([0.0, 0.05]))

    assert verdict.rel_l2 == pytest.approx(0.01)
    assert verdict.cosine == pytest.approx(1, abs=1e-4)
    assert verdict.nonfinite == 0


def test_the_worst_sample_counts_and_what_is_not_finite_is_worst():
    good, bad = Verdict("x", 1e-7, 1.0, 0), Verdict("x", 1e-3, 0.9, 0)
    broken = Verdict("x", float("inf"), float("nan"), 3)

    assert worst("y", [good, bad]) == Verdict("y", 1e-3, 0.9, 0)
    for order in ([broken, good], [good, broken]):
        found = worst("y", order)
        assert (found.rel_l2, found.nonfinite) == (float("inf"), 3)
        assert np.isnan(found.cosine)


@pytest.mark.parametrize(
    ("precision", "rel_l2", "cosine", "passes"),
    [
        ("f32", 1e-5, 0.0, True),
        ("f32", 1.1e-5, 1.0, False),
        ("f16", 1e-2, 0.9995, True),
        ("bf16", 1.1e-2, 1.0, False),
        ("bf16", 1e-3, 0.9994, False),
        ("int8", 9.0, 0.997, True),
        ("int8", 0.0, 0.9969, False),
        ("int8", 0.0, float("nan"), False),
        ("fp8", 9.0, 0.997, True),
        ("fp8", 0.0, 0.9969, False),
    ],
)
def test_each_precision_has_its_own_gate(precision, rel_l2, cosine, passes):
    verdict = Verdict("x", rel_l2, cosine, 0)

    assert verdict.is_within(LIMITS[precision]) == passes


def test_the_state_after_the_last_step_is_the_end(bundle):
    golden = bundle.golden()

    assert {golden[name].shape for name in STATES.values()} == {(1, 2, 8, 12)}
    end = golden["decode_states"][0, -1] + bundle.latent_mean
    np.testing.assert_allclose(end, golden["z_v"][0], rtol=1e-5, atol=1e-6)
    end = golden["encode_states"][0, -1]
    np.testing.assert_allclose(end, golden["z_n_encoded"][0], rtol=1e-5, atol=1e-6)


def test_states_need_the_form_that_has_them(bundle):
    z = np.zeros((8, 12), np.float32)
    with (
        open_model(bundle, "ort", form="unrolled") as model,
        pytest.raises(UsageError) as caught,
    ):
        model.states(z, "decode")

    assert str(caught.value) == (
        "form: expected step, to see each state; found unrolled"
    )


def test_export_leaves_the_model_as_it_was():
    model = random_model()
    before = {k: v.clone() for k, v in model.vae.state_dict().items()}
    tiny_bundle()
    package._fingerprint(model.field)

    for key, value in model.vae.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
