"""Feature networks: the right layer, the right colours, and never a random weight."""

import pickle
import subprocess
import sys
from types import MappingProxyType

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from training.metrics.feature_networks import FeatureNetwork, open_network
from training.metrics.network_specs import NETWORKS, NetworkSpec
from training.metrics.result import Absent


def pictures(n=3, side=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


class Tiny(nn.Module):
    """Two layers, the second of which works in place on the first's output."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=4)
        self.second = nn.ReLU(inplace=True)

    def forward(self, images):
        return self.second(self.first(images))


SPECS = MappingProxyType(
    {
        "inception": NetworkSpec(
            title="tiny",
            build=Tiny,
            layers={"avgpool": "first"},
            size=20,
            file="tiny-0123abcd.pth",
            prefixes=("module.",),
        )
    }
)


@pytest.fixture(autouse=True)
def _no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_layer_is_read_before_the_next_one_changes_it(tmp_path, prefix, suffix):
    made = Tiny().eval()
    state = {prefix + name: value for name, value in made.state_dict().items()}
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": state}, file)
    else:
        save_file(state, file)

    network = open_network("inception", file, specs=SPECS)

    assert isinstance(network, FeatureNetwork)
    found = network.features(pictures())
    with torch.no_grad():
        wanted = made.first(SPECS["inception"].prepare(pictures())).flatten(1)
    np.testing.assert_array_equal(found["avgpool"], wanted.numpy())
    assert (found["avgpool"] < 0).any()
    assert network.weights == file.name
    assert len(network.sha256) == 64


def test_images_are_resized_and_normalised():
    spec = NETWORKS["clip"]
    grey = np.full((1, 56, 56, 3), 102, np.uint8)

    found = spec.prepare(grey)

    assert found.shape == (1, 3, 224, 224)
    # 102 / 255 = .4; (.4 - .48145466) / .26862954 in red.
    assert found[0, 0].numpy() == pytest.approx(-0.08145466 / 0.26862954, abs=1e-5)


def test_pictures_may_be_read_only_as_those_of_a_map_are():
    mapped = pictures()
    mapped.flags.writeable = False

    # Torch warns of such arrays, and a warning is an error here.
    found = NETWORKS["clip"].prepare(mapped)

    assert torch.equal(found, NETWORKS["clip"].prepare(pictures()))


def test_without_weights_a_network_is_absent_with_the_reason(tmp_path):
    for name in NETWORKS:
        found = open_network(name)
        assert isinstance(found, Absent)
        assert "no weights" in found.reason
    assert not (tmp_path / "hub").exists()
    missing = open_network("clip", tmp_path / "none.safetensors")
    assert isinstance(missing, Absent)
    assert "none.safetensors" in missing.reason


def test_nothing_is_downloaded_unless_asked_for(monkeypatch):
    asked = []

    def refuse(url, **settings):
        asked.append((url, settings["weights_only"]))
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)

    open_network("inception")
    assert asked == []
    found = open_network("inception", download=True)
    assert asked == [(NETWORKS["inception"].url, True)]
    assert isinstance(found, Absent)
    assert "no network" in found.reason
    # Not torchvision's: there is nothing to download from.
    assert "give a file" in open_network("swav", download=True).reason


def cut(state):
    del state["first.bias"]


def reshape(state):
    state["first.bias"] = torch.zeros(5)


@pytest.mark.parametrize("harm", [cut, reshape])
def test_weights_of_another_network_are_absent_and_never_filled_up(tmp_path, harm):
    state = dict(Tiny().state_dict())
    harm(state)
    torch.save(state, tmp_path / "w.pt")

    found = open_network("inception", tmp_path / "w.pt", specs=SPECS)

    assert isinstance(found, Absent)
    assert "first.bias" in found.reason


class Planted:
    def __reduce__(self):
        return (print, ("planted",))


def test_a_file_that_would_run_something_is_absent(tmp_path, capsys):
    torch.save({"first.bias": Planted()}, tmp_path / "w.pt")

    found = open_network("inception", tmp_path / "w.pt", specs=SPECS)

    assert isinstance(found, Absent)
    assert "planted" not in capsys.readouterr().out
    assert found.reason == (
        "w.pt: expected weights of inception, found no state dict that is read without "
        "running code (an archive: cut, or of something else). Save the tensors as "
        "safetensors"
    )


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("w.pt", b"", "it is empty"),
        ("w.pt", b"<!doctype html>", "it is a page or another text"),
        ("w.pt", b'{"weights": 1}', "it is JSON or another text"),
        ("w.pt", b"\x80\x04K\x01", "a pickle: cut, or of something else than tensors"),
        ("w.pt", b"\x01\x02\x03\x04\x05", "it begins with the bytes 01 02 03 04"),
        ("w.safetensors", b"wild", "no whole safetensors file (it is text)"),
    ],
)
def test_a_file_that_is_no_weights_is_named_for_what_it_is(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)

    found = open_network("inception", tmp_path / name, specs=SPECS)

    assert words in found.reason
    assert found.reason.startswith(f"{name}: expected weights of inception, found no ")
    # What torch says is to load it unsafely, cut in the middle.
    assert "weights_only" not in found.reason
    assert len(found.reason) < 200


def test_of_a_bare_pickle_its_one_line_alone_is_said(tmp_path, recwarn):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"weights": 1}, protocol=4))

    found = open_network("inception", tmp_path / "w.pth", specs=SPECS)

    assert "a pickle: cut, or of something else than tensors" in found.reason
    # Torch warns of the protocol, before and in other words.
    assert [str(one.message) for one in recwarn] == []


def test_a_cached_file_must_have_the_hash_that_its_name_says(tmp_path):
    cached = SPECS["inception"].cached()
    cached.parent.mkdir(parents=True)
    torch.save(Tiny().state_dict(), cached)

    found = open_network("inception", specs=SPECS)

    assert isinstance(found, Absent)
    assert "0123abcd" in found.reason


def test_torchvisions_files_are_looked_for_by_name_and_hash():
    assert NETWORKS["inception"].hash_prefix == "0cc3c7bd"
    assert NETWORKS["clip"].hash_prefix == ""
    assert NETWORKS["efficientnet"].cached().name.startswith("efficientnet_b1")


def test_torchvisions_addresses_are_its_own():
    models = torchvision.models

    assert {name: spec.url for name, spec in NETWORKS.items() if spec.url} == {
        "inception": models.Inception_V3_Weights.DEFAULT.url,
        "alexnet": models.AlexNet_Weights.DEFAULT.url,
        "efficientnet": models.EfficientNet_B1_Weights.DEFAULT.url,
    }


@pytest.mark.slow
def test_an_evaluation_without_networks_imports_none():
    program = "import sys, verbs.evaluate_bundle; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert not {"open_clip", "torchvision", "transformers"} & {*done.stdout.split()}


def built(name):
    """The whole network as torchvision makes it, random, and its state."""
    makers = {
        "inception": lambda: torchvision.models.inception_v3(
            weights=None, init_weights=False, transform_input=True
        ),
        "alexnet": lambda: torchvision.models.alexnet(weights=None),
        "efficientnet": lambda: torchvision.models.efficientnet_b1(weights=None),
        "swav": lambda: torchvision.models.resnet50(weights=None),
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return makers[name]().eval()


NODES = {
    "inception": {"avgpool": "avgpool"},
    "alexnet": {"features.4": "layer2", "features.11": "layer5"},
    "efficientnet": {"avgpool": "avgpool"},
    "swav": {"avgpool": "avgpool"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NODES)
def test_the_layer_is_the_one_that_the_published_code_reads(tmp_path, name):
    module = built(name)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    images = pictures(2, 64)

    network = open_network(name, tmp_path / "w.safetensors")

    assert isinstance(network, FeatureNetwork)
    # As the published code does it, by tracing the graph.
    reader = create_feature_extractor(
        module, return_nodes=NODES[name], suppress_diff_warning=True
    )
    with torch.no_grad():
        wanted = reader(NETWORKS[name].prepare(images))
    found = network.features(images)
    assert found.keys() == wanted.keys()
    for layer, value in wanted.items():
        np.testing.assert_array_equal(found[layer], value.flatten(1).numpy())


def test_the_convolutions_of_alexnet_alone_are_enough(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        features = torchvision.models.alexnet(weights=None).features.eval()
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")

    network = open_network("alexnet", tmp_path / "w.safetensors")

    images = NETWORKS["alexnet"].prepare(pictures(1))
    with torch.no_grad():
        # The second and the fifth convolution, each with its rectifier.
        wanted = [features[:5](images), features[:12](images)]
    found = network.features(pictures(1))
    for layer, value in zip(("layer2", "layer5"), wanted, strict=True):
        np.testing.assert_array_equal(found[layer], value.flatten(1).numpy())
        assert found[layer].min() == 0.0


def test_clips_embedding_is_what_its_image_side_returns(tmp_path, monkeypatch):
    # Late: all processes collect this test, and one runs it.
    from open_clip.transformer import QuickGELU, VisionTransformer

    def small():
        return VisionTransformer(
            image_size=224,
            patch_size=56,
            width=32,
            layers=2,
            heads=2,
            mlp_ratio=2.0,
            output_dim=8,
            act_layer=QuickGELU,
        )

    with torch.random.fork_rng():
        torch.manual_seed(2)
        tower = small().eval()
    # Files of whole models have the text side too, which is not read.
    state = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    save_file(state | {"logit_scale": torch.ones(1)}, tmp_path / "w.safetensors")
    spec = NETWORKS["clip"]
    specs = {
        "clip": NetworkSpec(
            spec.title, small, spec.layers, spec.size, spec.file, None,
            spec.mean, spec.std, spec.prefixes,
        )
    }  # fmt: skip

    network = open_network("clip", tmp_path / "w.safetensors", specs=specs)

    with torch.no_grad():
        wanted = tower(spec.prepare(pictures()))
    found = network.features(pictures())["embedding"]
    assert found.shape == (3, 8)
    np.testing.assert_array_equal(found, wanted.numpy())
