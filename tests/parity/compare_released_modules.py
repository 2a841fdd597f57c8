"""Compare with the authors' own modules, by hand: it needs a checkout of their code.

    python -m tests.parity.compare_released_modules CHECKOUT [--subject 2] [--depth 2]

CHECKOUT is a folder with their `script/vae` and `script/xfm`, fetched by whoever runs
this. Their modules are imported from there, which runs their code; nothing of it is
kept here. Both sides load the same redrawn weights by name, and the relative L2 of
every output is printed. No test runs this.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import math
import sys
import types
from pathlib import Path

import msgspec
import torch
from torch import nn

from runtime.path import path_from_name
from runtime.solver import SOLVERS
from training.config import PRESETS
from training.flow import decode_latents, encode_latents
from training.neurovae import NeuroVAE
from training.sit import SiT

UNUSED = ("einops", "torchdiffeq")
"""What their modules import without using it on this way; an empty module will do."""


def unavailable(*_given, **_named):
    raise RuntimeError("expected no use of a stubbed module")


def their_modules(checkout):
    """Return their NeuroVAE, SiT and sampler classes, imported from a checkout."""
    for name in UNUSED:
        if importlib.util.find_spec(name) is None:
            stub = types.ModuleType(name)
            stub.rearrange = stub.odeint_adjoint = unavailable
            sys.modules[name] = stub
    sys.path[:0] = [str(checkout / "script" / part) for part in ("vae", "xfm")]
    vae = importlib.import_module("neurovae")
    sit = importlib.import_module("sit")
    samplers = importlib.import_module("samplers")
    return vae.NeuroVAE_P, sit.SiT, samplers


def their_vae(kind, config):
    sizes = {
        "ch": config.channels,
        "out_ch": 1,
        "ch_mult": config.channel_multipliers,
        "num_res_blocks": config.blocks,
        "num_down_blocks": config.downsamplings,
        "num_up_blocks": config.downsamplings,
        "attn_resolutions": [],
        "dropout": 0.0,
        "in_channels": 1,
        "resolution": config.tokens,
        "z_channels": config.tokens,
        "voxel_dim": config.voxels,
        "linear_dim": config.hidden,
        "latent_dim": config.width * 2**config.downsamplings,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return kind(sizes).eval()


def their_sit(kind, config):
    return kind(
        path_type="cosine",
        num_patches=config.tokens,
        hidden_size=config.width,
        depth=config.depth,
        num_heads=config.heads,
        qk_norm=False,
        fused_attn=True,
    ).eval()


def redrawn(module, seed):
    """Return values that are nowhere zero for everything in a module's state dict."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, old in module.state_dict().items():
        size = 0.5 + torch.rand(old.shape, generator=generator)
        sign = torch.randint(0, 2, old.shape, generator=generator) * 2 - 1
        if name.endswith("bias"):
            size /= 5
        elif old.ndim > 1 and name != "pos_embed":
            size /= math.sqrt(old[0].numel())
        drawn[name] = size * sign
    return drawn


def filled(ours, theirs, seed):
    """Load the same weights into both by name; both refuse another name or shape."""
    weights = redrawn(theirs, seed)
    for module in (ours, theirs):
        # Assigned, not copied: the largest model is then in memory once.
        module.load_state_dict(weights, strict=True, assign=True)
    return ours.eval(), theirs.eval()


def report(name, found, expected):
    found, expected = found.double(), expected.double()
    if found.shape != expected.shape:
        raise SystemExit(f"{name}: expected {expected.shape}, found {found.shape}")
    error = float((found - expected).norm() / expected.norm())
    print(f"{name:<48}{error:.2e}", flush=True)  # noqa: T201  # what it is for


def compare_vae(kind, config, dtype, seed):
    with torch.device("meta"):
        ours: nn.Module = NeuroVAE(config)
    ours, theirs = filled(ours, their_vae(kind, config), seed)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    draws = torch.Generator().manual_seed(seed)
    voxels = torch.randn(2, config.voxels, generator=draws).to(dtype)
    label = f"{str(dtype).removeprefix('torch.')} {config.voxels} voxels:"
    with torch.no_grad():
        features = ours.features(voxels)
        given = ours.posterior(features)
        h, h_clip, z, post = theirs.encode(voxels[:, None], train=True)
        report(f"{label} features", features, theirs.encoder(voxels[:, None]))
        report(f"{label} posterior mean", given.mean, post.mean)
        report(f"{label} posterior log variance", given.log_variance, post.logvar)
        report(f"{label} mode (encode)", ours.encode(voxels), h)
        report(f"{label} retrieval projection", ours.retrieval(features), h_clip)
        report(f"{label} z_c", ours.compact(given.mean), z)
        report(f"{label} decode", ours.decode(given.mean), theirs.decode(z)[:, 0])
        report(f"{label} generate", ours.decode(h), theirs.generate(h)[:, 0])
        torch.manual_seed(seed)
        drawn = theirs.encode(voxels[:, None], sample=True)[0]
        torch.manual_seed(seed)
        # They draw in float32 whatever the model's precision.
        noise = torch.randn(given.mean.shape).to(dtype)
        sample = given.mean + torch.exp(given.log_variance / 2) * noise
        report(f"{label} sample, the same noise", sample, drawn)


def compare_flow(kind, samplers, config, dtype, seed, steps):
    with torch.device("meta"):
        ours: nn.Module = SiT(config)
    ours, theirs = filled(ours, their_sit(kind, config), seed)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(1, config.tokens, config.width, generator=draws).to(dtype)
    label = f"{str(dtype).removeprefix('torch.')} depth {config.depth}:"
    for time in (0.0, 0.3, 1.0):
        t = torch.tensor([time], dtype=dtype)
        with torch.no_grad():
            report(f"{label} velocity at t = {time}", ours(z, t), theirs(z, t))
    path, euler = path_from_name("cos"), SOLVERS["euler"]
    for n in steps:
        # Their sampler ends in float32.
        found = encode_latents(ours, z, n, euler, path).float()
        report(
            f"{label} encode, {n} steps of euler",
            found,
            samplers.euler_sampler_fwd(theirs, z, n),
        )
        found = decode_latents(ours, z, n, euler, path).float()
        report(
            f"{label} decode, {n} steps of euler",
            found,
            samplers.euler_sampler_bwd(theirs, z, n),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--subject", type=int, choices=(1, 2, 5, 7), default=None)
    parser.add_argument("--depth", type=int, default=2, help="12 as published")
    parser.add_argument("--steps", type=int, nargs="*", default=[20])
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float64"])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if not (chosen.checkout / "script" / "xfm" / "sit.py").is_file():
        raise SystemExit(f"{chosen.checkout}: expected script/xfm/sit.py, found none")
    vae, sit, samplers = their_modules(chosen.checkout.resolve())
    subjects = [chosen.subject] if chosen.subject else [1, 2, 5, 7]
    for dtype in (getattr(torch, name) for name in chosen.dtypes):
        for subject in subjects:
            config = PRESETS[f"paper-subj{subject:02d}"].vae
            compare_vae(vae, config, dtype, chosen.seed)
        flow = PRESETS["paper-subj01"].flow
        flow = msgspec.structs.replace(flow, depth=chosen.depth)
        compare_flow(sit, samplers, flow, dtype, chosen.seed, chosen.steps)


if __name__ == "__main__":
    main()
