"""The published backbone's tokens, on a model of the same kind that is tiny."""

import importlib
import json
import math
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import ArtifactError, BackendError, ConfigError
from training.visual.open_clip import (
    MEAN,
    STD,
    OpenClipBackbone,
    check_tokens,
    prepare_pictures,
)

NAME, SIDE, PATCH, WIDTH = "tiny-neuroflow", 28, 7, 32
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": SIDE, "layers": 2, "width": WIDTH, "head_width": 8,
        "patch_size": PATCH,
    },
    "text_cfg": {
        "context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def open_clip():
    """The library, late: all processes collect these tests, and one runs them."""
    return importlib.import_module("open_clip")


@pytest.fixture(scope="module")
def weights(open_clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{NAME}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(NAME)
    with torch.no_grad():
        # A gain and bias that are not one and nought, so that ln_post is seen.
        model.visual.ln_post.weight.copy_(torch.rand(WIDTH) + 0.5)
        model.visual.ln_post.bias.copy_(torch.randn(WIDTH))
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.fixture(scope="module")
def backbone(weights):
    return OpenClipBackbone(weights, NAME)


def pictures(size=SIDE, count=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def by_hand(backbone, batch):
    """Every layer of the tower by itself, up to and with ln_post; no class token."""
    visual = backbone._visual
    with torch.no_grad():
        x = visual.conv1(batch).flatten(2).transpose(1, 2)
        head = visual.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([head, x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(x)
        for block in visual.transformer.resblocks:
            x = block(x)
        return visual.ln_post(x)[:, 1:].numpy()


def test_tokens_are_those_of_all_patches_after_the_last_norm(backbone):
    shown = pictures()

    found = backbone.latents(shown)

    plain = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    scaled = (plain - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    assert found.shape == (3, (SIDE // PATCH) ** 2, WIDTH)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(backbone, scaled), rtol=1e-4, atol=1e-5)


def test_tokens_are_not_brought_to_length_one(backbone):
    lengths = np.linalg.norm(backbone.latents(pictures()), axis=-1)

    assert (np.abs(lengths - 1) > 0.1).all()


def test_half_precision_gives_the_same_tokens_nearly(backbone, weights):
    half = OpenClipBackbone(weights, NAME, precision=torch.float16)

    found, wanted = half.latents(pictures()), backbone.latents(pictures())

    assert found.dtype == np.float32
    # 11 bits, through two layers, on tokens of about 1.
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_a_batch_gives_what_its_pictures_give_alone(backbone):
    shown = pictures()

    alone = np.concatenate([backbone.latents(shown[i : i + 1]) for i in range(3)])

    np.testing.assert_allclose(backbone.latents(shown), alone, rtol=1e-4, atol=1e-5)


def test_the_identity_names_architecture_resizing_library_and_weights(
    open_clip, backbone, weights
):
    source = backbone.source

    assert source.name == f"open_clip {NAME}"
    assert open_clip.__version__ in source.detail
    assert source.weights_sha256 is not None
    assert backbone.shape == (16, WIDTH)


def oracle_resize(picture, side):
    """Blur and resample one colour in float64, pixel by pixel."""
    size = len(picture)
    factor = size / side
    deviation = (factor - 1) / 2
    width = int(max(4 * deviation, 3))
    reach = (width + 1 - width % 2) // 2
    places = np.arange(-reach, reach + 1)
    kernel = np.exp(-(places**2) / (2 * deviation**2))
    kernel /= kernel.sum()
    framed = np.pad(picture.astype(float), reach, mode="reflect")
    blurred = sum(k * framed[i : i + size] for i, k in enumerate(kernel))
    blurred = sum(k * blurred[:, i : i + size] for i, k in enumerate(kernel))

    def row(position):
        weights = np.zeros(size)
        base = math.floor(position)
        for k in range(base - 1, base + 3):
            d, a = abs(position - k), -0.75
            if d <= 1:
                w = (a + 2) * d**3 - (a + 3) * d**2 + 1
            else:
                w = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[min(max(k, 0), size - 1)] += w
        return weights

    matrix = np.stack([row(i * (size - 1) / (side - 1)) for i in range(side)])
    return matrix @ blurred @ matrix.T


@pytest.mark.parametrize("size", [53, 64, 300])
def test_pictures_are_resized_as_the_published_tokens_were(size):
    shown = pictures(size, count=1)

    found = prepare_pictures(torch.from_numpy(shown), SIDE)[0].double().numpy()

    for colour in range(3):
        wanted = oracle_resize(shown[0, :, :, colour] / 255, SIDE)
        back = found[colour] * STD[colour] + MEAN[colour]
        # Sums of some hundred float32 products.
        np.testing.assert_allclose(back, wanted, atol=2e-5)


def test_a_library_that_returns_tokens_before_the_norm_is_refused(backbone):
    class Old(torch.nn.Module):
        def __init__(self, visual):
            super().__init__()
            self.visual, self.ln_post = visual, visual.ln_post

        def forward(self, x):
            pooled, tokens = self.visual(x)
            plain = (tokens - self.ln_post.bias) / self.ln_post.weight
            return pooled, 3 * plain + 0.5

    cpu = torch.device("cpu")
    check_tokens(backbone._visual, SIDE, cpu, torch.float32)
    with pytest.raises(BackendError, match="tokens: expected those after ln_post"):
        check_tokens(Old(backbone._visual), SIDE, cpu, torch.float32)


def test_a_library_that_returns_no_tokens_is_refused(open_clip, weights):
    plain = open_clip.create_model(NAME).visual

    with pytest.raises(BackendError, match="expected pooled features and tokens"):
        check_tokens(plain, SIDE, torch.device("cpu"), torch.float32)


def test_weights_that_are_missing_are_one_line(tmp_path):
    with pytest.raises(ArtifactError, match=r"found no file\. Nothing is downloaded"):
        OpenClipBackbone(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04N."])
def test_weights_that_are_none_are_one_line(weights, tmp_path, content):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)

    with pytest.raises(
        ArtifactError, match=f"expected the weights of {NAME}"
    ) as caught:
        OpenClipBackbone(file, NAME)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.safetensors", b""),
        ("w.safetensors", b"{}"),
        ("w.bin", b""),
        ("w.bin", pickle.dumps(print)),
        ("w.pt", b'{"a": 1}'),
    ],
)
def test_a_file_of_no_weights_is_told_before_a_model_is_made(
    open_clip, tmp_path, monkeypatch, name, content
):
    file = tmp_path / name
    file.write_bytes(content)
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("made"))

    with pytest.raises(ArtifactError, match=f"{name}: expected the weights") as caught:
        OpenClipBackbone(file, NAME)

    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_one_line(weights):
    with pytest.raises(ArtifactError, match="expected the weights of ViT-S-32-alt"):
        OpenClipBackbone(weights, "ViT-S-32-alt")


def test_an_unknown_architecture_is_named(weights):
    with pytest.raises(ConfigError, match="backbone: expected an architecture"):
        OpenClipBackbone(weights, "ViT-nothing")
