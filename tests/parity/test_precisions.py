"""A precision ships only through its gate: per step, at the end, trained, stressed.

On a trained flow of twelve blocks; a fresh one has no velocity and proves nothing.
"""

import dataclasses
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file, save_file

import neuroflow
from runtime.bundle import GOLDEN, MANIFEST, open_bundle, write_manifest
from runtime.engine import open_engine
from runtime.errors import BackendError, BundleError, ConfigError
from runtime.golden import LIMITS, STATES, judge
from runtime.graphs import graph_of
from runtime.manifest import EIGHT_BITS
from runtime.model import open_model
from runtime.sealed import seal
from tests.models import RandomModel, export, random_model
from training.checkpoint import load_flow, load_neurovae
from training.fit import fit_flow, fit_neurovae
from training.trials import TrialSet

pytestmark = pytest.mark.slow

HALVES = ("f16", "bf16")
PRECISIONS = ("f32", *HALVES, *EIGHT_BITS)
VELOCITY = np.array([0, 1], np.float32)


def trained_model(folder) -> RandomModel:
    """The tiny model with twelve blocks of width 48, trained until it moves a latent.

    With the preset's 8 steps at 1e-3 a velocity is 2 % of its input, here 39 %.

    The autoencoder has every kind of layer once: depth is what the flow is tried for.
    """
    model = random_model()
    tokens, width = 8, 48
    small = model.config
    config = msgspec.structs.replace(
        small,
        vae=msgspec.structs.replace(
            small.vae,
            width=width,
            channel_multipliers=(1, 2),
            blocks=1,
            downsamplings=1,
        ),
        flow=msgspec.structs.replace(small.flow, width=width, depth=12),
        flow_training=msgspec.structs.replace(
            small.flow_training, steps=64, learning_rate=4e-3
        ),
    )
    rng = np.random.default_rng(0)
    trials = TrialSet(
        rng.standard_normal((24, 37)).astype(np.float32),
        np.arange(24) % 8,
        rng.standard_normal((8, tokens, width)).astype(np.float32),
    )
    vae = fit_neurovae(config, trials, folder / "vae")
    flow = fit_flow(config, trials, vae, folder / "flow")
    return dataclasses.replace(
        model,
        config=config,
        vae=load_neurovae(vae)[0],
        field=load_flow(flow)[0],
        latent_mean=trials.latents.mean(axis=0),
        golden_voxels=trials.voxels[:2],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("half")
    return export(trained_model(scratch), scratch / "bundle", precisions=PRECISIONS)


@pytest.fixture(scope="module")
def bundle(folder):
    with open_bundle(folder) as bundle:
        yield bundle


def test_the_field_that_is_judged_is_far_from_the_zero_that_proves_nothing(bundle):
    golden, spec = bundle.golden(), bundle.manifest.graph("step")
    engine = open_engine("ort", bundle.folder / spec.file, spec, threads=1)
    shares = []
    for way, name in (("decode", "z_n"), ("encode", "z_v")):
        centre = bundle.latent_mean if name == "z_v" else np.float32(0)
        for z in golden[name] - centre:
            for row in bundle.tensors[f"conditioning_{way}"]:
                inputs = {"z": z[None], "modulation": row[None], "weights": VELOCITY}
                velocity = engine.run(inputs)["state"]
                shares.append(np.linalg.norm(velocity) / np.linalg.norm(z))
    engine.close()

    assert min(shares) > 0.2


def said(*arguments):
    """Run the command line; return its status, output and error."""
    out, error = io.StringIO(), io.StringIO()
    argv = ["neuroflow", *map(str, arguments)]
    with mock.patch("sys.argv", argv), redirect_stdout(out), redirect_stderr(error):
        try:
            status = neuroflow.main()
        except SystemExit as ended:
            status = ended.code
    return status, out.getvalue(), error.getvalue()


def gates_of(bundle):
    """Name of each gate in its parts: label, precision, judge, form, result."""
    return [(gate, gate.name.split(".", 4)) for gate in bundle.manifest.gates]


def test_every_precision_passed_each_step_and_the_end(bundle):
    results = {}
    for gate, (label, precision, engine, form, result) in gates_of(bundle):
        assert gate.precision == precision
        key = label, precision, engine, form, result
        if result == "ranks":
            assert (precision in EIGHT_BITS, gate.metric) == (True, "lost")
            assert gate.reached <= gate.limit
            continue
        results.setdefault(key, {})[gate.metric] = gate

    for (_, precision, *_), metrics in results.items():
        assert metrics["nonfinite"].reached == 0
        limits = LIMITS[precision]
        if precision not in EIGHT_BITS:
            assert metrics["rel_l2"].reached <= metrics["rel_l2"].limit == limits.rel_l2
        if precision != "f32":
            assert metrics["cosine"].reached >= metrics["cosine"].limit == limits.cosine
    steps = {f"{way}_flow.step_{n}" for way in STATES for n in (1, 2)}
    ends = {"decode_flow", "encode_flow"}
    for label in ("stressed", "trained"):
        for precision, engine in (
            ("f32", "ort"),
            ("f16", "rounded"),
            ("bf16", "rounded"),
            ("fp8", "ort"),
        ):
            found = {
                r for (*k, r) in results if k == [label, precision, engine, "step"]
            }
            assert found >= steps | ends
    chains = {r for (label, *_, r) in results if label == "trained"}
    assert chains >= {"encoder", "retrieval", "decoder", "chain_decode", "chain_encode"}


def test_half_precision_is_worse_than_float32_and_bfloat16_than_float16(bundle):
    """Else some precision was not the one that was judged."""
    worst = dict.fromkeys(PRECISIONS, 0.0)
    for gate, (_, precision, _, _, result) in gates_of(bundle):
        if gate.metric == "rel_l2" and result.startswith("decode_flow"):
            worst[precision] = max(worst[precision], gate.reached)

    assert 10 * worst["f32"] < worst["f16"] < worst["bf16"] / 2


def test_weights_of_a_precision_are_one_file_and_no_graph_has_its_own(bundle):
    graphs = bundle.folder / "graphs"
    sizes = {
        precision: (graphs / f"flow.{precision}.weights").stat().st_size
        for precision in PRECISIONS[1:]
    }

    # The conditioning rows stay in float32, and weigh something at this width.
    whole = (graphs / "flow.weights").stat().st_size
    assert sizes["f16"] == sizes["bf16"] < 0.6 * whole
    assert sizes["int8"] < 0.4 * whole
    assert sizes["fp8"] < 0.4 * whole
    for name in ("step", "decode_flow", "encode_flow"):
        for precision in sizes:
            spec = bundle.manifest.graph(name, precision)
            model = onnx.load(bundle.folder / spec.file, load_external_data=False)
            assert spec.opset == model.opset_import[0].version == 20
            own = [w for w in model.graph.initializer if not w.external_data]
            assert all(numpy_helper.to_array(w).nbytes < 1024 for w in own)
            places = {
                entry.value
                for weight in model.graph.initializer
                for entry in weight.external_data
                if entry.key == "location"
            }
            assert places == {f"flow.{precision}.weights"}


def test_the_autoencoder_keeps_its_encoder_once(bundle):
    graphs = bundle.folder / "graphs"
    for precision, end in (("f32", ""), ("f16", ".f16"), ("bf16", ".bf16")):
        sizes = {}
        for name in ("encoder", "retrieval", "decoder"):
            path = bundle.folder / bundle.manifest.graph(name, precision).file
            model = onnx.load(path, load_external_data=False)
            places = [
                {entry.key: entry.value for entry in weight.external_data}
                for weight in model.graph.initializer
                if weight.external_data
            ]
            assert {one["location"] for one in places} == {f"autoencoder{end}.weights"}
            sizes[name] = {one["offset"]: int(one["length"]) for one in places}
        encoder, retrieval = sizes["encoder"], sizes["retrieval"]
        own = [retrieval[at] for at in retrieval.keys() - encoder.keys()]
        # Of the projection, and of z_n's mean: small weights lie in the graphs.
        width, half = 48, 1 if end == "" else 2
        assert sorted(own) == [width * width * 4 // half] * 3
        assert len(encoder.keys() - retrieval.keys()) <= 1
        each = {**encoder, **retrieval, **sizes["decoder"]}
        whole = (graphs / f"autoencoder{end}.weights").stat().st_size
        assert 0 <= whole - sum(each.values()) <= 64 * (len(each) + 1)


def test_onnx_runtime_opens_float16_and_its_two_forms_agree(bundle):
    z = np.random.default_rng(6).normal(size=(8, 48)).astype(np.float32)
    with (
        open_model(bundle, "ort", "f16", form="unrolled") as unrolled,
        open_model(bundle, "ort", "f16", form="step") as looped,
        open_model(bundle, "ort") as exact,
    ):
        for name in ("decode_latent", "encode_latent"):
            a, b = getattr(unrolled, name)(z), getattr(looped, name)(z)
            assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a)
            assert not np.array_equal(a, getattr(exact, name)(z))


@pytest.mark.parametrize(
    ("precision", "backend"), [("int8", "openvino"), ("fp8", "tensorrt")]
)
def test_8_bits_are_of_the_flow_and_the_autoencoder_stays_in_float32(
    bundle, precision, backend
):
    names = {g.name for g in bundle.manifest.graphs if g.precision == precision}

    assert names == {"step", "decode_flow", "encode_flow"}
    assert graph_of(bundle.manifest, "encoder", "ort", precision).precision == "f32"
    assert graph_of(bundle.manifest, "step", backend, precision).precision == precision


def test_products_are_all_of_the_8_bits_that_a_graph_is_named_after(bundle):
    kinds = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
    for precision in EIGHT_BITS:
        spec = bundle.manifest.graph("step", precision)
        graph = onnx.load(bundle.folder / spec.file, load_external_data=False).graph
        kind = {one.name: one.data_type for one in graph.initializer}
        matrices = [name for name in kind if name.endswith(".q")]
        products = [node for node in graph.node if node.op_type == "MatMul"]

        # Four in each of twelve blocks, and the last; attention has two of its own.
        assert len(matrices) == 4 * 12 + 1
        assert {kind[name] for name in matrices} == {kinds[precision]}
        assert len(products) == len(matrices) + 2 * 12
        assert not any(name in kind for node in products for name in node.input)
        assert {kind[f"{name[:-2]}.steps"] for name in matrices} == {TensorProto.FLOAT}


@pytest.mark.parametrize("precision", EIGHT_BITS)
def test_8_bits_do_not_change_what_is_retrieved(bundle, precision):
    rng = np.random.default_rng(2)
    voxels = rng.normal(size=(12, 37)).astype(np.float32)
    with open_model(bundle) as exact, open_model(bundle, "ort", precision) as model:
        wanted = np.stack([exact.decode_latent(exact.encode_voxels(v)) for v in voxels])
        found = np.stack([model.decode_latent(model.encode_voxels(v)) for v in voxels])

    def rows(latents):
        flat = latents.reshape(len(latents), -1) - wanted.reshape(len(wanted), -1).mean(
            0
        )
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    cosines = rows(found) @ rows(wanted).T
    np.testing.assert_array_equal(cosines.argmax(axis=1), np.arange(len(voxels)))


def test_a_bundle_without_integers_says_so(bundle):
    plain = tuple(g for g in bundle.manifest.graphs if g.precision == "f32")
    manifest = msgspec.structs.replace(bundle.manifest, graphs=plain)

    for name in ("encoder", "step"):
        with pytest.raises(BundleError) as caught:
            graph_of(manifest, name, "ort", "int8")
        assert str(caught.value) == (
            "manifest.json: expected a graph step in int8, found encoder, retrieval, "
            "decoder, step, decode_flow, encode_flow. Export it with --precisions f32 "
            "int8, or choose another precision."
        )


def test_onnx_runtime_on_the_cpu_has_no_bfloat16(bundle):
    with pytest.raises(BackendError, match="Choose the backend openvino"):
        open_model(bundle, "ort", "bf16")


def test_openvino_computes_half_from_the_float32_graph(bundle):
    """It would type a half graph anew; its own check at the start still holds."""
    graph = graph_of(bundle.manifest, "step", "openvino", "bf16")

    assert graph == bundle.manifest.graph("step")
    assert graph_of(bundle.manifest, "step", "ort", "f16").precision == "f16"


def test_openvino_reads_every_graph(bundle):
    """The file, in float32 arithmetic: what is left is the rounding of the weights.

    Of 8-bit floating point too, though it is not served: it makes a number of NaN.
    """
    z = np.array(bundle.golden()["z_n"][:1])
    row = bundle.tensors["conditioning_decode"][:1]
    found = {}
    for precision in PRECISIONS:
        spec = bundle.manifest.graph("step", precision)
        engine = open_engine("openvino", bundle.folder / spec.file, spec, threads=1)
        inputs = {"z": z, "modulation": row, "weights": VELOCITY}
        found[precision] = engine.run(inputs)["state"].copy()
        engine.close()

    assert judge("f16", found["f32"], found["f16"]).rel_l2 < 1e-2
    assert judge("bf16", found["f32"], found["bf16"]).rel_l2 < 1e-1
    for precision in EIGHT_BITS:
        verdict = judge(precision, found["f32"], found[precision])
        assert verdict.cosine > LIMITS[precision].cosine


def test_verify_judges_each_map_and_step_of_a_precision_without_torch(folder):
    status, output, error = said("verify", folder, "--precision", "f16")

    assert (status, error) == (0, "")
    first, *lines = output.splitlines()
    assert first.startswith("ort ")
    assert first.endswith(
        ", f16: expected relative L2 error <= 0.01 and cosine >= 0.9995 to the "
        "golden vectors"
    )
    assert [line.split()[0] for line in lines] == [
        "encoder", "retrieval", "decode_flow", "encode_flow", "decoder",
        "decode_flow.step_1", "decode_flow.step_2",
        "encode_flow.step_1", "encode_flow.step_2",
    ]  # fmt: skip
    assert all("relative L2" in line and "beyond" not in line for line in lines)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_float64_reference_is_within_every_gate(folder, precision):
    """Of 8 bits it is the definition; of half it shows what the weights alone lose."""
    arguments = ["--backend", "reference", "--precision", precision, "--json"]

    status, output, error = said("verify", folder, *arguments)

    assert (status, error) == (0, "")
    result = json.loads(output)
    assert result["backend"].startswith("reference numpy ")
    assert len(result["results"]) == 9


def test_verify_says_the_same_as_json(folder):
    status, output, _ = said("verify", folder, "--backend", "openvino", "--json")

    result = json.loads(output)
    assert status == 0
    assert result["precision"] == "f32"
    assert result["limits"] == {"rel_l2": 1e-5, "cosine": None}
    assert len(result["results"]) == 9
    for row in result["results"].values():
        assert row["is_within"]
        assert row["nonfinite"] == 0
        assert row["rel_l2"] <= 1e-5


def wrong_bundle(folder, out, change):
    """A sealed copy of a bundle whose golden vectors were changed."""
    shutil.copytree(folder, out)
    golden = dict(load_file(out / GOLDEN))
    change(golden)
    save_file(golden, out / GOLDEN)
    (out / MANIFEST).unlink()
    with open_bundle(folder) as bundle:
        specs = tuple(spec for spec in bundle.manifest.golden if spec.name in golden)
        manifest = msgspec.structs.replace(bundle.manifest, golden=specs)
    write_manifest(out, msgspec.structs.replace(manifest, files=seal(out)))
    return out


def test_verify_prints_all_and_fails_with_one_line_of_the_first(folder, tmp_path):
    def change(golden):
        golden["decode_states"][:, 0] *= np.float32(1.001)

    status, output, error = said("verify", wrong_bundle(folder, tmp_path / "b", change))

    assert status == 1
    assert len(output.splitlines()) == 10
    (beyond,) = [line for line in output.splitlines() if line.endswith("beyond")]
    assert beyond.split()[0] == "decode_flow.step_1"
    assert error.count("\n") == 1
    assert error.startswith(
        "neuroflow: decode_flow.step_1: expected relative L2 error <= 1e-05, found "
        "relative L2 error 0.000999, cosine 1.000000. Choose"
    )


def test_a_bundle_without_states_is_verified_and_says_what_it_lacks(folder, tmp_path):
    def change(golden):
        for name in STATES.values():
            del golden[name]

    status, output, _ = said("verify", wrong_bundle(folder, tmp_path / "b", change))

    assert status == 0
    assert len(output.splitlines()) == 7
    assert output.splitlines()[-1] == (
        "  steps of the flow: not judged, the bundle is older than their vectors"
    )


def test_inspect_tells_precisions_apart(folder):
    _, output, _ = said("inspect", folder)

    assert "step, decode_flow, encode_flow, step f16, decode_flow f16" in output
    parity = next(line for line in output.splitlines() if line.startswith("parity"))
    assert [key for key in PRECISIONS if f" in {key}" in parity] == list(PRECISIONS)


@pytest.mark.parametrize(
    ("precisions", "found"),
    [(("bf16",), "bf16"), ((), "none"), (("f32",) * 2, "f32 f32")],
)
def test_a_bundle_always_has_float32_once(tmp_path, precisions, found):
    with pytest.raises(ConfigError) as caught:
        export(random_model(), tmp_path / "bundle", precisions=precisions)

    assert str(caught.value) == (
        f"precisions: expected f32 and each at most once, found {found}"
    )
    assert not list(tmp_path.iterdir())


def test_a_choice_without_float32_is_wrong_usage_before_anything_is_read():
    folders = [
        word for key in ("vae", "flow", "out", "trials") for word in (f"--{key}", "x")
    ]

    assert said("export", *folders, "--precisions", "bf16", "int8") == (
        2,
        "",
        "neuroflow: precisions: expected f32 and each at most once, found bf16 int8\n",
    )
