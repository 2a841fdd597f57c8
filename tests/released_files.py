"""Small files in exactly the layout of the authors' released ones."""

import argparse
import functools
import tempfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from runtime.errors import CheckpointError
from training.config import config_from_preset
from training.neurovae import NeuroVAE
from training.released import import_released
from training.sit import SiT

_TINY = config_from_preset("tiny")
CONFIG = replace(
    _TINY,
    vae=replace(_TINY.vae, channel_multipliers=(1, 2), blocks=1, downsamplings=1),
)
"""Every kind of layer once: a file is opened hundreds of times, each tensor read."""
FLAGS = {
    "subject": 1,
    "path_type": "cosine",
    "prediction": "v",
    "model_depth": CONFIG.flow.depth,
    "model_head": CONFIG.flow.heads,
    "qk_norm": False,
    "zscore_clip": False,
    "learning_rate": 1e-4,
    "resume_id": None,
}
NAMES = ("last.pth", "last.pt")
SAVE = "expected a file by torch.save, found"


def drawn(module, seed):
    torch.manual_seed(seed)
    return OrderedDict(
        (k, torch.randn(v.shape)) for k, v in module.state_dict().items()
    )


@functools.cache
def optimizer_state():
    vae = NeuroVAE(CONFIG.vae)
    optimizer = torch.optim.AdamW(vae.parameters())
    vae.decode(vae.encode(torch.zeros(1, CONFIG.vae.voxels))).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def vae_content(**changes):
    return {
        "epoch": 29,
        "model": drawn(NeuroVAE(CONFIG.vae), 1),
        "optimizer": optimizer_state(),
        "train_losses": [3.0, 2.0],
        "val_losses": [],
        "test_losses": [],
        "lrs": [1e-4],
    } | changes


def flow_content(**changes):
    field = SiT(CONFIG.flow)
    return {
        "model": drawn(field, 2),
        "ema": drawn(field, 3),
        "opt": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(**FLAGS),
        "steps": 50_000,
    } | changes


@functools.cache
def saved():
    """Both files' bytes, saved once."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in NAMES]
        for path, content in zip(paths, (vae_content(), flow_content()), strict=True):
            torch.save(content, path)
        return [path.read_bytes() for path in paths]


def fetched(folder):
    """Both files, as if fetched; a test may spoil them."""
    paths = tuple(folder / name for name in NAMES)
    for path, data in zip(paths, saved(), strict=True):
        path.write_bytes(data)
    return paths


def refusal(files, out=None):
    """Return the one line that an import ends with, after which nothing is written."""
    out = out or files[0].parent / "out"
    with pytest.raises(CheckpointError) as caught:
        import_released(*files, out, 1)
    assert not out.exists()
    assert {file.name for file in out.parent.iterdir()} <= {"last.pth", "last.pt", "x"}
    line = str(caught.value)
    assert "\n" not in line
    assert line.isascii()
    return line
