from pathlib import Path

import pytest
import torch

from training.config import config_from_preset
from training.neurovae import NeuroVAE
from training.sit import SiT

LAYOUTS = Path(__file__).with_name("neuroflow_state_dicts.tsv")


def published(module):
    shapes = {}
    for line in LAYOUTS.read_text().splitlines():
        if line.startswith(f"{module}\t"):
            _, name, shape = line.split("\t")
            shapes[name] = tuple(int(n) for n in shape.split("x"))
    return shapes


@pytest.mark.parametrize(
    ("module", "part", "parameters"),
    [("neurovae", "vae", 59_756_334), ("sit", "flow", 610_316_928)],
)
def test_the_paper_preset_has_the_published_names_shapes_and_size(
    module, part, parameters
):
    config = config_from_preset("paper-subj01")
    build = {"neurovae": NeuroVAE, "sit": SiT}[module]

    with torch.device("meta"):
        built = build(getattr(config, part))

    assert {k: tuple(v.shape) for k, v in built.state_dict().items()} == published(
        module
    )
    assert sum(p.numel() for p in built.parameters()) == parameters


@pytest.mark.parametrize(
    ("subject", "parameters"),
    [("02", 56_793_480), ("05", 54_254_769), ("07", 53_523_276)],
)
def test_other_subjects_differ_by_their_voxels_alone(subject, parameters):
    with torch.device("meta"):
        vae = NeuroVAE(config_from_preset(f"paper-subj{subject}").vae)

    assert sum(p.numel() for p in vae.parameters()) == parameters
