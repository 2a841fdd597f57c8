"""Counts of work hold against a hand count and against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from export.fold import FoldedEncoder, FoldedVelocity, VoxelDecoder
from runtime.bench.work import Sizes, Work, decoder, encoder, evaluation, front, heads
from training.config import PRESETS
from training.neurovae import NeuroVAE
from training.sit import SiT

PAPER = Sizes(
    voxels=15_724, tokens=256, width=1664, depth=12, mlp_ratio=4, hidden=1024,
    channels=64, channel_multipliers=(1, 2, 4), blocks=2, downsamplings=2,
    is_compact=True,
)  # fmt: skip


def sizes_of(name):
    vae, flow = PRESETS[name].vae, PRESETS[name].flow
    return Sizes(
        voxels=vae.voxels, tokens=vae.tokens, width=vae.width, depth=flow.depth,
        mlp_ratio=flow.mlp_ratio, hidden=vae.hidden, channels=vae.channels,
        channel_multipliers=vae.channel_multipliers, blocks=vae.blocks,
        downsamplings=vae.downsamplings, is_compact=True,
    )  # fmt: skip


def test_an_evaluation_of_the_paper_by_hand():
    # A block: 12 d^2 weights met by 256 tokens, and 256^2 scores made and used.
    block = 2 * 256 * 12 * 1664**2 + 4 * 256**2 * 1664
    assert block == 17_448_304_640

    found = evaluation(PAPER)

    assert found.flop == 12 * block + 2 * 256 * 1664**2 == 210_797_330_432
    assert found.weights == 12 * 12 * 1664**2 + 1664**2


def test_the_heads_and_the_front_of_the_paper_by_hand():
    assert heads(PAPER, 100) == Work(flop=200 * 256 * 1664, weights=100 * 256 * 1664)
    assert front(PAPER, 3) == Work(flop=12 * 15_724, weights=5 * 15_724)


@pytest.mark.parametrize("preset", ["tiny", "demo", "haxby"])
def test_counts_are_those_of_torch(preset):
    config, sizes = PRESETS[preset], sizes_of(preset)
    vae, field = NeuroVAE(config.vae).eval(), SiT(config.flow).eval()
    m, d = sizes.tokens, sizes.width
    z = torch.zeros(1, m, d)
    modulation = torch.zeros(1, (6 * sizes.depth + 2) * d)
    for module, args, work in (
        (FoldedEncoder(vae), (torch.zeros(1, sizes.voxels),), encoder(sizes)),
        (FoldedVelocity(field), (z, modulation), evaluation(sizes)),
        (VoxelDecoder(vae), (z,), decoder(sizes)),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module.eval()(*args)
        assert work.flop == counter.get_total_flops(), type(module).__name__


def test_weights_are_those_of_the_published_size():
    """Those that are left in the folded modules, or, of the field, in its blocks."""
    with torch.device("meta"):
        vae, field = NeuroVAE(PRESETS["paper-subj01"].vae), SiT(PRESETS["demo"].flow)

    def matrices(module, *prefixes):
        return sum(
            p.numel() for name, p in module.named_parameters()
            if p.ndim > 1 and name.startswith(prefixes)
        )  # fmt: skip

    read = FoldedEncoder(vae)
    # Fused: the first linear layer's matrix is no parameter now.
    first = read.features.weight.numel()
    assert first == PAPER.voxels * PAPER.hidden
    assert encoder(PAPER).weights == first + matrices(read, "")
    assert decoder(PAPER).weights == matrices(
        VoxelDecoder(vae).vae, "decoder.", "pre_proj2.", "post_proj."
    )
    folded = matrices(field, "blocks.", "final_layer.") - sum(
        p.numel()
        for name, p in field.named_parameters()
        if "adaLN" in name and p.ndim > 1
    )
    assert evaluation(sizes_of("demo")).weights == folded


def test_the_limit_is_the_later_of_compute_and_memory():
    work = Work(flop=100, weights=10)

    def limit(flop_per_s, bytes_per_s, precision="f32"):
        return work.limit_s(
            flop_per_s=flop_per_s, bytes_per_s=bytes_per_s, precision=precision
        )

    assert limit(50.0, 1e9) == 2
    assert limit(1e9, 20.0) == 2
    assert limit(1e9, 20.0, "bf16") == 1
