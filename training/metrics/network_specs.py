"""What each feature network is: architecture, layer, size and colours of its input.

The five networks, their layers and sizes are those of NeuroFlow's released `eval.py`
and MindEye2's `final_evaluations`. Architectures are torchvision's and open_clip's,
which are imported where a network is built: an evaluation without weights has none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One network: how it is built, and what it is shown."""

    title: str
    build: Callable[[], nn.Module]
    """Makes the architecture; its weights are set afterwards."""
    layers: Mapping[str, str]
    """Name of each feature, and the submodule whose output it is."""
    size: int
    """Pixels of the shorter side, resized bilinearly; nothing is cropped."""
    file: str
    """Name in torchvision's cache."""
    url: str | None = None
    """Where torchvision gets it; None: not from torchvision."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    prefixes: tuple[str, ...] = field(default=())
    """What a file may have in front of every name."""

    @property
    def hash_prefix(self) -> str:
        """Start of the file's sha256, as torchvision writes it into the name."""
        stem, _, digest = Path(self.file).stem.rpartition("-")
        return digest if stem and len(digest) == 8 else ""

    def cached(self) -> Path:
        """Return where torchvision keeps the weights."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def rename(self, name: str) -> str:
        """Return a tensor's name without what a file has in front of it."""
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return name

    def prepare(self, images: UInt8[np.ndarray, "images rows columns 3"]) -> Tensor:
        """Return images as the network was trained to see them."""
        from torchvision.transforms.v2 import functional as transforms

        # A copy: kept pictures are mapped read-only, which torch has no tensors for.
        pixels = torch.from_numpy(np.array(images, order="C")).permute(0, 3, 1, 2)
        resized = transforms.resize(
            pixels.float() / 255,
            [self.size],
            interpolation=transforms.InterpolationMode.BILINEAR,
            antialias=True,
        )
        shown: Tensor = transforms.normalize(resized, list(self.mean), list(self.std))
        return shown


class Convolutions(nn.Module):
    """The part of a network before its classifier, under its name there."""

    def __init__(self, features: nn.Module) -> None:
        """Hold the layers."""
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Return the last layer's output."""
        found: Tensor = self.features(images)
        return found


# Classifiers are left out: they are not read, and files may lack them.


def inception() -> nn.Module:
    """Build Inception V3 without its classifiers (Szegedy et al. 2016)."""
    import torchvision

    # transform_input: these weights saw other colours, which the network mends itself.
    module: nn.Module = torchvision.models.inception_v3(
        weights=None, transform_input=True, aux_logits=False, init_weights=False
    )
    module.fc = nn.Identity()
    return module


def alexnet() -> nn.Module:
    """Build AlexNet's convolutions (Krizhevsky 2014)."""
    import torchvision

    return Convolutions(torchvision.models.alexnet(weights=None).features)


def clip_vision() -> nn.Module:
    """Build the image side of CLIP ViT-L/14 (Radford et al. 2021)."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    tower: nn.Module = VisionTransformer(
        image_size=224,
        patch_size=14,
        width=1024,
        layers=24,
        heads=16,
        mlp_ratio=4.0,
        output_dim=768,
        act_layer=QuickGELU,
    )
    return tower


def efficientnet() -> nn.Module:
    """Build EfficientNet-B1 without its classifier (Tan and Le 2019)."""
    import torchvision

    module: nn.Module = torchvision.models.efficientnet_b1(weights=None)
    module.classifier = nn.Identity()
    return module


def resnet50() -> nn.Module:
    """Build ResNet-50 without its classifier (SwAV: Caron et al. 2020)."""
    import torchvision

    module: nn.Module = torchvision.models.resnet50(weights=None)
    module.fc = nn.Identity()
    return module


# torchvision's newest weights of each, as its own table has them.
_PLACE: Final = "https://download.pytorch.org/models"
_INCEPTION_URL: Final = f"{_PLACE}/inception_v3_google-0cc3c7bd.pth"
_ALEXNET_URL: Final = f"{_PLACE}/alexnet-owt-7be5be79.pth"
_EFFICIENTNET_URL: Final = f"{_PLACE}/efficientnet_b1-c27df63c.pth"

NETWORKS: Final[dict[str, NetworkSpec]] = {
    "inception": NetworkSpec(
        title="Inception V3",
        build=inception,
        layers={"avgpool": "avgpool"},
        size=342,
        file=Path(_INCEPTION_URL).name,
        url=_INCEPTION_URL,
    ),
    # The papers' layers 2 and 5: the second and the fifth convolution, rectified.
    "alexnet": NetworkSpec(
        title="AlexNet",
        build=alexnet,
        layers={"layer2": "features.4", "layer5": "features.11"},
        size=256,
        file=Path(_ALEXNET_URL).name,
        url=_ALEXNET_URL,
    ),
    "clip": NetworkSpec(
        title="CLIP ViT-L/14",
        build=clip_vision,
        layers={"embedding": ""},
        size=224,
        file="clip-vit-large-patch14.safetensors",
        mean=CLIP_MEAN,
        std=CLIP_STD,
        prefixes=("visual.",),
    ),
    "efficientnet": NetworkSpec(
        title="EfficientNet-B1",
        build=efficientnet,
        layers={"avgpool": "avgpool"},
        size=255,
        file=Path(_EFFICIENTNET_URL).name,
        url=_EFFICIENTNET_URL,
    ),
    "swav": NetworkSpec(
        title="SwAV ResNet-50",
        build=resnet50,
        layers={"avgpool": "avgpool"},
        size=224,
        file="swav_800ep_pretrain.pth.tar",
        prefixes=("module.",),
    ),
}
