"""Precision, parts of a batch, recomputation and compilation leave the model alone."""

import csv
import itertools
import json

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from runtime.errors import BackendError, CheckpointError, ConfigError
from runtime.path import path_from_name
from tests.ranked import noisy, trials
from training.checkpoint import Checkpoint, load_flow, load_neurovae, read_manifest
from training.compute import AS_PUBLISHED, Compute
from training.config import config_from_preset
from training.fit import DivergedError, fit_flow, fit_neurovae
from training.flow import flow_matching_loss
from training.losses import Cycle, CycleOutputs, compare
from training.neurovae import NeuroVAE
from training.parts import cut, cut_contrast, made_ready
from training.ranks import ALONE, OneProcess, own_rows
from training.recompute import set_recompute
from training.scaler import GROW_AFTER, SKIPS_LIMIT, START, LossScaler
from training.sit import SiT
from training.snapshot import RunIdentity
from training.state import StepLosses

CONFIG = config_from_preset("tiny")
DIGEST = "0" * 64


def field() -> SiT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sit = SiT(CONFIG.flow)
        for parameter in sit.parameters():
            if parameter.requires_grad:
                # The last layer starts at zero, which would hide every gradient.
                nn.init.normal_(parameter, std=0.1)
    return sit


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    z_v = torch.randn(n, 8, 12, generator=generator)
    z_n = torch.randn(n, 8, 12, generator=generator)
    return z_v, z_n, torch.rand(n, generator=generator)


def gradient(sit: SiT, micro_batch: int | None, rows) -> tuple[float, torch.Tensor]:
    path = path_from_name("cos")

    def losses(z_v, z_n, t):
        return StepLosses(flow_matching_loss(sit, z_v, z_n, t, path), {})

    sit.zero_grad()
    total = 0.0
    for part in cut(micro_batch, losses, *rows):
        loss = part.losses().total * part.share
        loss.backward()
        total += loss.item()
    parameters = [p.grad.flatten() for p in sit.parameters() if p.requires_grad]
    return total, torch.cat(parameters)


def losses_of(folder) -> list[float]:
    lines = (folder / "history.csv").read_text().splitlines()
    return [float(row["loss"]) for row in csv.DictReader(lines)]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12))
def test_parts_of_a_batch_have_its_loss_and_gradient(n, micro_batch):
    sit, rows = field(), batch(n)

    whole, expected = gradient(sit, None, rows)
    parts, found = gradient(sit, micro_batch, rows)

    assert parts == pytest.approx(whole, rel=1e-6)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_part_has_no_more_rows_than_asked_for():
    seen = []

    def losses(z_v, z_n, t):
        seen.append(len(t))
        return StepLosses(t.mean(), {})

    for part in cut(3, losses, *batch(8)):
        part.losses()

    assert seen == [3, 3, 2]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_parts_of_a_contrast_have_its_losses_and_gradient(n, micro_batch, is_dropped):
    generator = torch.Generator().manual_seed(n)
    voxels = torch.randn(n, 37, generator=generator)
    z_v, noise = torch.randn(2, n, 8, 12, generator=generator)
    kept = (torch.rand(n, 8, 1, generator=generator) < 0.7).float()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = NeuroVAE(CONFIG.vae)
    cycle, calls = Cycle(vae), []

    def run(*rows):
        calls.append((len(rows[0]), torch.is_grad_enabled()))
        return cycle(*rows)

    def judge(outputs):
        found = compare(CycleOutputs(*outputs), voxels, z_v, CONFIG.vae_training)
        return StepLosses(found.total, found.terms())

    def taken(rows_at_once):
        vae.zero_grad()
        sums = torch.zeros(7)
        rows = (voxels, noise, kept) if is_dropped else (voxels, noise)
        for part in cut_contrast(rows_at_once, run, judge, *rows):
            found = part.losses()
            (found.total * part.share).backward()
            scalars = torch.stack([found.total, *found.terms.values()])
            sums += part.share * scalars.detach()
        return sums, torch.cat([p.grad.flatten() for p in vae.parameters()])

    whole, expected = taken(None)
    assert calls == [(n, True)]
    parts, found = taken(micro_batch)

    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert max(rows for rows, _ in calls[1:]) == min(micro_batch, n)


def test_a_stage_1_in_parts_has_the_history_of_the_whole_one(tmp_path):
    fit_neurovae(CONFIG, trials(), tmp_path / "whole")
    fit_neurovae(CONFIG, trials(), tmp_path / "parts", compute=Compute(micro_batch=3))

    assert losses_of(tmp_path / "parts") == pytest.approx(
        losses_of(tmp_path / "whole"), rel=1e-4
    )
    with pytest.raises(ConfigError, match="micro_batch: expected at least 1, found 0"):
        Compute(micro_batch=0)


@pytest.mark.parametrize("module", ["flow", "vae"])
def test_recomputed_activations_give_the_same_gradient(module):
    def gradients(is_on):
        torch.manual_seed(0)
        voxels, noise = torch.randn(4, 37), torch.randn(4, 8, 12)
        if module == "flow":
            model = field()
            set_recompute(model, is_on)
            loss = model(noise, torch.rand(4)).square().mean()
        else:
            model = NeuroVAE(CONFIG.vae)
            set_recompute(model, is_on)
            outputs = Cycle(model)(voxels, noise)
            loss = compare(outputs, voxels, noise, CONFIG.vae_training).total
        loss.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    kept, again = gradients(False), gradients(True)

    # The encoder runs twice: its two gradients are added in another order.
    for a, b in zip(kept, again, strict=True):
        assert (a - b).norm() <= 1e-5 * a.norm()


@pytest.mark.parametrize("module", ["flow", "vae"])
def test_recomputing_keeps_fewer_activations_for_the_backward_pass(module):
    def kept(is_on):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        model = field() if module == "flow" else NeuroVAE(CONFIG.vae)
        set_recompute(model, is_on)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if module == "flow":
                model(torch.randn(16, 8, 12), torch.rand(16))
            else:
                Cycle(model)(torch.randn(16, 37), torch.randn(16, 8, 12))
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_the_exponent_and_the_losses_are_float32_in_half_precision():
    torch.manual_seed(0)
    voxels, noise = torch.randn(4, 37), torch.randn(4, 8, 12)
    compute = Compute(precision="bf16")
    cycle = Cycle(NeuroVAE(CONFIG.vae))

    with compute.autocast(torch.device("cpu")):
        outputs = cycle(voxels, noise)
    losses = compare(outputs, voxels, noise, CONFIG.vae_training)

    assert {tensor.dtype for tensor in outputs} == {torch.float32}
    assert losses.total.dtype == torch.float32
    # Half precision took place: its rounding is there.
    assert not torch.equal(outputs.mean, cycle(voxels, noise).mean)


def test_what_changes_numbers_is_part_of_the_runs_identity():
    assert RunIdentity(stage="vae", config="a", trials="b").compute == "fp32"
    distinct = {
        Compute(
            precision=precision,
            micro_batch=rows,
            checkpoint_activations=recomputes,
            compile=is_compiled,
        ).identity
        for precision, rows, recomputes, is_compiled in itertools.product(
            ("fp32", "bf16", "fp16"), (None, 2, 4), (False, True), (False, True)
        )
    }
    assert len(distinct) == 36


def test_a_checkpoint_of_before_opens_as_the_published_way(tmp_path):
    manifest = Checkpoint(
        stage="flow",
        config=CONFIG,
        seed=0,
        step=1,
        versions={},
        fingerprint=DIGEST,
        compute=Compute(precision="bf16"),
    )
    text = json.loads(msgspec.json.encode(manifest))
    (tmp_path / "config.json").write_text(json.dumps(text))
    assert read_manifest(tmp_path, "flow") == manifest

    del text["compute"]
    (tmp_path / "config.json").write_text(json.dumps(text))

    assert read_manifest(tmp_path, "flow").compute == AS_PUBLISHED


def test_a_scale_halves_on_overflow_and_doubles_after_long_calm():
    scaler, gradients = LossScaler(), [torch.full((3,), START), torch.full((2,), 1.0)]

    scaler.unscale(gradients)
    scaler.overflowed()
    after_overflow = scaler.scale
    for _ in range(GROW_AFTER):
        scaler.fitted()

    assert torch.equal(gradients[0], torch.ones(3))
    assert torch.equal(gradients[1], torch.full((2,), 1 / START))
    assert (after_overflow, scaler.scale, scaler.calm) == (START / 2, START, 0)


def test_skips_in_a_row_are_counted_across_a_snapshot():
    scaler = LossScaler()
    for _ in range(SKIPS_LIMIT - 1):
        scaler.overflowed()
    resumed = LossScaler()
    resumed.load(scaler.state())

    assert not resumed.is_lost
    resumed.overflowed()
    assert resumed.is_lost
    scaler.fitted()
    assert scaler.skips == 0


def test_rows_of_all_processes_are_the_batch():
    ranks = [OneProcess() for _ in range(3)]
    for i, rank in enumerate(ranks):
        rank.count, rank.index = 3, i

    rows = [list(range(12))[own_rows(rank, 12)] for rank in ranks]

    assert list(itertools.chain(*rows)) == list(range(12))
    with pytest.raises(ConfigError, match="multiple of the 3 processes, found 8"):
        own_rows(ranks[0], 8)


def test_compiling_leaves_the_names_alone():
    sit = field()
    names = list(sit.state_dict())

    made = made_ready(sit, sit.pieces(), Compute(compile=True), ALONE)

    assert made._compiled_call_impl is not None
    assert list(made.state_dict()) == names == list(field().state_dict())


def test_a_failed_compilation_is_one_clear_line():
    module = nn.Linear(2, 2)

    def broken(_graph, _inputs):
        raise RuntimeError("no compiler\nand a page of advice")

    module.compile(backend=broken)

    with (
        pytest.raises(BackendError) as caught,
        Compute(compile=True).compiling(),
    ):
        module(torch.ones(1, 2))

    line = str(caught.value)
    assert line.startswith("compile: expected torch.compile to succeed, found ")
    assert "no compiler" in line
    assert "\n" not in line


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return fit_neurovae(noisy(), trials(), tmp_path_factory.mktemp("vae"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_nearly_the_same_with_float32_weights(
    precision, vae, tmp_path
):
    compute = Compute(precision=precision)

    half = fit_neurovae(noisy(), trials(), tmp_path / "vae", compute=compute)
    flow = fit_flow(noisy(), trials(), vae, tmp_path / "flow", compute=compute)
    whole = fit_flow(noisy(), trials(), vae, tmp_path / "whole")

    # bf16 keeps eight bits: relative errors of 2^-9 an operation, a few of them deep.
    assert losses_of(half)[0] == pytest.approx(losses_of(vae)[0], rel=0.02)
    assert losses_of(flow)[0] == pytest.approx(losses_of(whole)[0], rel=0.02)
    assert losses_of(flow) != losses_of(whole)
    for folder, manifest in (
        (half, load_neurovae(half)[1]),
        (flow, load_flow(flow)[1]),
    ):
        assert manifest.compute == compute
        (snapshot,) = folder.glob("snapshot-*.safetensors")
        held = load_file(snapshot)
        assert ("scaler" in held) is (precision == "fp16")
        floats = {k: v for k, v in held.items() if k not in ("generator", "scaler")}
        assert {value.dtype for value in floats.values()} == {torch.float32}


@pytest.mark.slow
def test_another_precisions_snapshot_is_refused_in_one_line(vae, tmp_path):
    fit_flow(noisy(), trials(), vae, tmp_path)

    with pytest.raises(CheckpointError, match="compute: expected bf16, found fp32"):
        fit_flow(noisy(), trials(), vae, tmp_path, compute=Compute(precision="bf16"))


@pytest.mark.slow
def test_overflows_are_skipped_until_they_are_twenty_in_a_row(
    vae, tmp_path, monkeypatch
):
    norms, weights = [], []
    real = nn.utils.clip_grad_norm_

    def overflowing(parameters, limit):
        parameters = list(parameters)
        real(parameters, limit)
        weights.append(torch.cat([p.detach().flatten() for p in parameters]))
        norms.append(len(norms) not in (0, 2) and len(norms) < 4)
        return torch.tensor(1.0 if norms[-1] else float("inf"))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", overflowing)
    config = noisy()
    longer = msgspec.structs.replace(config.flow_training, steps=100)
    config = msgspec.structs.replace(config, flow_training=longer)

    with pytest.raises(DivergedError) as caught:
        fit_flow(
            config,
            trials(),
            vae,
            tmp_path,
            compute=Compute(precision="fp16"),
            snapshot_every_s=0.0,
        )
    assert str(caught.value) == (
        "flow step 24: expected a gradient within fp16, found 20 overflows in a row, "
        "which bf16 has not. The last snapshot, of step 23, leads there again: begin "
        "anew (--no-resume) with a lower learning rate (--config)"
    )
    # Its weights are those that overflow.
    assert not (tmp_path / "last_good").exists()

    # Steps 1 and 3 were skipped, 2 and 4 were not, and after that none was taken.
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert moved == [False, True, False, True] + [False] * 19
    held = load_file(tmp_path / "snapshot-23.safetensors")
    assert held["scaler"].tolist() == [START / 2**21, 0, 19]


@pytest.mark.slow
def test_a_compiled_flow_learns_the_same(vae, tmp_path):
    compute = Compute(compile=True)

    compiled = fit_flow(noisy(), trials(), vae, tmp_path / "compiled", compute=compute)
    plain = fit_flow(noisy(), trials(), vae, tmp_path / "plain")

    assert losses_of(compiled) == pytest.approx(losses_of(plain), rel=1e-4)
    names = load_file(compiled / "weights.safetensors").keys()
    assert names == load_file(plain / "weights.safetensors").keys()


@pytest.mark.parametrize(
    ("capabilities", "slow"),
    [
        ({"architecture": "x86_64", "avx2": True}, {"bf16", "fp16"}),
        ({"architecture": "x86_64", "avx512_bf16": True}, {"fp16"}),
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_fp16": True}, set()),
        # Of others torch does not say it in these words.
        ({"architecture": "aarch64"}, set()),
        (None, set()),
    ],
)
def test_a_precision_that_the_processor_lacks_is_said_to_be_slow(
    monkeypatch, capabilities, slow
):
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda: capabilities, raising=False
        )

    said = {
        precision: Compute(precision=precision).slow_on(torch.device("cpu"))
        for precision in ("fp32", "bf16", "fp16")
    }

    assert {precision for precision, line in said.items() if line} == slow
    for precision in slow:
        assert said[precision].startswith(f"this processor lacks {precision}: ")
        # A line of the terminal, behind the margin of `verbs.progress.Screen.say`.
        assert len(said[precision]) < 70
    assert not Compute(precision="bf16").slow_on(torch.device("cuda"))
