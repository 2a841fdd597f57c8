"""`neuroflow bench` from its command line to its files, on models that take no time."""

import dataclasses
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch

import neuroflow
import verbs.bench
from runtime.bench.figures import no_slope, values
from runtime.bench.result import Who, decode_result
from runtime.bundle import open_bundle
from runtime.errors import BundleError, ParityError
from runtime.estimator import VolumeEstimator
from runtime.model import Model
from tests.models import BETAS, SYNTHETIC, export, random_model, served_bundle
from training.config import PRESETS
from training.neurovae import NeuroVAE
from training.sit import SiT
from verbs.bench_commands import bench
from verbs.bench_engines import open_stages, with_evaluations
from verbs.bench_orders import Job, started
from verbs.bench_preset import write_preset
from verbs.bench_sizes import sizes_of_bundle, sizes_of_config
from verbs.bench_torch import open_torch

# An export stands behind them, and most of it is torch's exporter.
pytestmark = pytest.mark.slow
WHO = Who(peer="ort", precision="f32", threads=1)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    out = tmp_path_factory.mktemp("preset")
    write_preset(
        PRESETS["tiny"],
        out,
        created="2026-01-02",
        seed=0,
        precisions=("f32", "f16", "bf16", "int8", "fp8"),
    )
    return out


def test_a_bundle_is_measured_from_the_command_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "a.json"
    bundle = export(
        random_model(),
        tmp_path / "bundle",
        backbone=SYNTHETIC,
        precisions=("f32", "int8"),
    )
    quick = ["--rounds", "6", "--seconds", "0.02", "--tr", "0.02", "--volumes", "20"]
    line = ["neuroflow", "bench", str(bundle), "--backend", "ort", "--threads", "1"]
    quick += ["--against", "ort:int8"]
    monkeypatch.setattr(sys, "argv", [*line, *quick, "--json", str(file)])

    assert neuroflow.main() == 0

    shown = capsys.readouterr()
    result = decode_result(file.read_bytes(), "a.json")
    assert {stage for stage, _ in values(result)} == {
        "front", "encoder", "served flow", "heads", "decoder", "decode", "outside",
        "volume", "volume due", "step", "intercept",
    }  # fmt: skip
    assert all(len(v) == 6 for v in values(result).values())
    assert result.paced[0].paced.latency_ns[19] > 0
    assert result.processes[0].resident_bytes > 10 * 2**20
    assert result.machine.cores >= 1
    assert result.estimator == BETAS
    assert {str(who) for _, who in values(result)} == {
        "ort f32, 1 thread", "ort int8, 1 thread",
    }  # fmt: skip
    # On a busy machine a step may be no figure; then its ratio is none either.
    steps = [v for (stage, _), v in values(result).items() if stage == "step"]
    is_figure = not any(map(no_slope, steps))
    assert ("| step | 1 | ort f32 | ort int8 |" in shown.out) is is_figure
    assert "x limit" in shown.out
    assert "round 6 of 6" in shown.err


@pytest.mark.parametrize(
    ("against", "missing"),
    [
        ("ort:int8", "step in int8"),
        ("ort:f16", "encoder in f16"),
        ("reference:bf16", "encoder in bf16"),
        ("ort_cuda:bf16", "encoder in bf16"),
        ("tensorrt:f16", "encoder in f16"),
    ],
)
def test_graphs_that_a_bundle_has_not_are_refused_before_any_process(
    monkeypatch, against, missing
):
    monkeypatch.setattr(verbs.bench, "started", None)

    with pytest.raises(BundleError, match=f"expected a graph {missing}, found"):
        bench(served_bundle(), backend="ort", against=against)


@pytest.mark.parametrize(
    ("peer", "precision"),
    [
        ("openvino", "f32"),
        ("openvino", "int8"),
        ("ort", "f16"),
        ("ort", "int8"),
        ("ort", "fp8"),
        ("reference", "bf16"),
        ("reference", "int8"),
        ("reference", "fp8"),
    ],
)
def test_a_generated_bundle_is_one_that_every_engine_agrees_on(preset, peer, precision):
    who = Who(peer=peer, precision=precision, threads=1)
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        # Held against the golden vectors of ONNX Runtime, or it would not open.
        stages = open_stages(bundle, Job(kind="stages", who=who, bundle=""))
        for name, call in stages.calls.items():
            stages.before.get(name, lambda: None)()
            call()
        stages.close()
        assert bundle.manifest.gates == ()
        assert min(np.abs(v).max() for v in bundle.golden().values()) > 0


@pytest.mark.parametrize(
    ("peer", "off_by", "limit"), [("ort", 1.001, "1e-05"), ("openvino", 1.1, "0.05")]
)
def test_beside_a_flow_in_8_bits_the_other_maps_are_held_to_what_they_are_in(
    preset, monkeypatch, peer, off_by, limit
):
    run = Model._run

    def off(model, graph, source, array, target):
        found = run(model, graph, source, array, target)
        return found * np.float32(off_by) if graph == "decoder" else found

    monkeypatch.setattr(Model, "_run", off)
    who = Who(peer=peer, precision="int8", threads=1)
    with (
        open_bundle(preset / "bundle", is_drawn=True) as bundle,
        pytest.raises(ParityError) as caught,
    ):
        open_stages(bundle, Job(kind="stages", who=who, bundle=""))

    assert str(caught.value).startswith(
        f"golden decoder ({who}): expected relative L2 error <= {limit}, found "
    )


@pytest.mark.parametrize(("stage", "answers"), [("volume", 0), ("volume due", 1)])
def test_a_whole_volume_is_measured_with_and_without_an_answer_due(
    preset, stage, answers
):
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        stages = open_stages(bundle, Job(kind="stages", who=WHO, bundle="", gallery=3))
        # More than a run has: another begins.
        for _ in range(80):
            stages.before[stage]()
            report, trials = stages.calls[stage]()
            assert "tsnr" in report.quality
            assert [t.answer.decision for t in trials] == ["ANSWER"] * answers
            assert all(len(t.answer.candidates) == 3 for t in trials)
        stages.close()


def test_a_volume_bundles_every_volume_has_an_answer_due(preset):
    with open_bundle(preset / "bundle", is_drawn=True) as beta:
        estimator = VolumeEstimator(warming_volumes=2)
        manifest = msgspec.structs.replace(beta.manifest, estimator=estimator)
        bundle = dataclasses.replace(beta, manifest=manifest)
        stages = open_stages(bundle, Job(kind="stages", who=WHO, bundle="", gallery=3))
        assert stages.before.keys() == {"volume due"}
        stages.before["volume due"]()
        report, _ = stages.calls["volume due"]()
        stages.close()

    assert report.answer.decision == "ANSWER"


def test_the_flow_is_measured_as_it_is_served_and_its_step_by_itself(
    preset, monkeypatch
):
    from runtime.engines.ort import OrtEngine

    called = []
    run = OrtEngine.run
    monkeypatch.setattr(
        OrtEngine, "run", lambda e, x: called.append(set(x)) or run(e, x)
    )
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        stages = open_stages(bundle, Job(kind="stages", who=WHO, bundle="", gallery=3))
        for name, wanted in (
            ("served flow", [{"z_n"}]),
            ("decode", [{"voxels"}, {"z_n"}]),
            ("outside", []),
        ):
            called.clear()
            stages.calls[name]()
            assert called == wanted
        stages.close()


def torch_job(preset, peer, precision):
    return Job(
        kind="stages",
        who=Who(peer=peer, precision=precision, threads=1),
        bundle="",
        weights=str(preset / "weights"),
    )


@pytest.mark.parametrize(
    ("peer", "precision", "limit"),
    [
        ("torch", "f32", 1e-4),
        ("torch", "bf16", 5e-2),
        ("torch-autocast", "bf16", 5e-2),
        ("torch-compile", "f32", 1e-4),
    ],
)
def test_torch_computes_what_the_engines_compute(preset, peer, precision, limit):
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        wanted = bundle.golden()["z_v"][0] - bundle.latent_mean
        # Held against the golden vectors of every stage, or it would not open.
        stages = open_torch(bundle, torch_job(preset, peer, precision))

        found = stages.flow(2)()

    error = np.linalg.norm(found[0].numpy() - wanted) / np.linalg.norm(wanted)
    assert found.dtype == torch.float32
    assert error < limit
    assert (error > 1e-3) == (precision == "bf16")
    assert stages.calls.keys() == {"encoder", "served flow", "decoder"}


def test_torch_computes_what_a_server_does_and_no_retrieval_features(
    preset, monkeypatch
):
    monkeypatch.delattr(NeuroVAE, "retrieval")
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        stages = open_torch(bundle, torch_job(preset, "torch", "f32"))

        z_n = stages.calls["encoder"]()

        np.testing.assert_allclose(
            z_n.numpy(), bundle.golden()["z_n"], rtol=1e-3, atol=1e-4
        )


def test_torch_is_converted_as_a_whole_and_by_autocast_not_at_all(preset, monkeypatch):
    kinds = []
    forward = SiT.forward
    monkeypatch.setattr(
        SiT,
        "forward",
        lambda field, z, t: (
            kinds.append({p.dtype for p in field.parameters()}) or forward(field, z, t)
        ),
    )
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        for peer, kind in (
            ("torch", torch.bfloat16),
            ("torch-autocast", torch.float32),
        ):
            open_torch(bundle, torch_job(preset, peer, "bf16"))
            assert kinds.pop() == {kind}


def test_torch_that_computes_something_else_is_not_measured(preset, monkeypatch):
    forward = SiT.forward
    monkeypatch.setattr(SiT, "forward", lambda *a: 1.2 * forward(*a))

    with (
        open_bundle(preset / "bundle", is_drawn=True) as bundle,
        pytest.raises(ParityError) as caught,
    ):
        open_torch(bundle, torch_job(preset, "torch", "bf16"))

    assert str(caught.value).startswith(
        "torch bf16, 1 thread flow: expected relative L2 error <= 0.05 to the engines, "
        "found 0."
    )


def test_a_flow_of_n_evaluations_costs_n_evaluations(preset, monkeypatch):
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        stages = open_stages(bundle, Job(kind="stages", who=WHO, bundle=""))
        called = []
        from runtime.engines.ort import OrtEngine

        run = OrtEngine.run
        monkeypatch.setattr(
            OrtEngine, "run", lambda e, x: called.append(set(x)) or run(e, x)
        )
        for n in (1, 5, 20):
            called.clear()
            stages.flow(n)()
            assert called == [{"z", "modulation", "weights"}] * n
        stages.close()


def test_sizes_are_known_where_the_configuration_is_the_presets(preset):
    with open_bundle(preset / "bundle", is_drawn=True) as bundle:
        manifest = bundle.manifest
    other = msgspec.structs.replace(
        manifest,
        training=msgspec.structs.replace(manifest.training, config_sha256="1" * 64),
    )

    assert sizes_of_bundle(manifest) == sizes_of_config(PRESETS["tiny"])
    assert sizes_of_bundle(other) is None
    assert with_evaluations(manifest, 5).flow.decode_evaluations == 5


def test_measuring_a_bundle_imports_no_torch():
    program = (
        "import sys, verbs.bench, verbs.bench_worker, verbs.bench_rounds; "
        "print({'torch', 'onnx', 'export'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert done.stdout.strip() == "set()"


def test_a_start_from_cache_builds_no_engine_again(preset, tmp_path):
    folders = [tmp_path / name for name in ("copies", "engines")]
    for folder in folders:
        folder.mkdir(mode=0o700)
    job = Job(
        kind="serve",
        who=Who(peer="openvino", precision="f32", threads=1),
        bundle=str(preset / "bundle"),
        cache=str(folders[0]),
        engines=str(folders[1]),
        weights=str(preset / "weights"),
    )

    def start():
        with started(job) as child:
            assert child.ready.now_ns > 0
        kept = [f for f in folders[1].rglob("*") if f.is_file()]
        return {f.name: f.stat().st_mtime_ns for f in kept}

    first = start()

    # Encoder, flow, and the secret that proves they are ours.
    assert len(first) >= 3
    assert start() == first
