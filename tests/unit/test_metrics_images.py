"""The papers' eight image metrics together: each from its own network and layer."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import correlation
from torch import nn

from training.metrics.evaluation import Design, image_figures
from training.metrics.feature_networks import FeatureNetwork
from training.metrics.ledger import Ledger
from training.metrics.network_specs import NetworkSpec
from training.metrics.result import Absent

IMAGES, REPEATS, SIDE = 10, 2, 4
TWO_WAY = {
    "alex2": ("alexnet", "layer2"),
    "alex5": ("alexnet", "layer5"),
    "inception": ("inception", "avgpool"),
    "clip": ("clip", "embedding"),
}
DISTANCE = {"efficientnet": ("efficientnet", "avgpool"), "swav": ("swav", "avgpool")}
SEEN_BY = TWO_WAY | DISTANCE

SHOWN = np.tile(np.arange(IMAGES), REPEATS)
DESIGNS = {
    "single": Design.single(SHOWN),
    "averaged": Design.averaged(np.arange(IMAGES)),
}


class Weighted(nn.Module):
    """Weighted sums over the numbers of an image."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.from_numpy(weights)

    def forward(self, image):
        return image.flatten(1) @ self.weights


def weights(seed, inputs=SIDE * SIDE * 3):
    drawn = np.random.default_rng(seed).normal(size=(inputs, 6))
    return drawn.astype(np.float32)


WEIGHTS = {
    ("alexnet", "layer2"): weights(1),
    ("alexnet", "layer5"): weights(2, inputs=6),
    ("inception", "avgpool"): weights(3),
    ("clip", "embedding"): weights(4),
    ("efficientnet", "avgpool"): weights(5),
    ("swav", "avgpool"): weights(6),
}


def network(name):
    """A network of one sum a layer, which sees an image as it is, from 0 to 1."""
    layers = {layer: known for (of, layer), known in WEIGHTS.items() if of == name}
    module = nn.Sequential(*(Weighted(known) for known in layers.values()))
    spec = NetworkSpec(
        title=name,
        build=nn.Identity,
        layers={layer: str(place) for place, layer in enumerate(layers)},
        size=SIDE,
        file="",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return FeatureNetwork(spec, module, f"{name}.safetensors", "0" * 64)


NETWORKS = {name: network(name) for name, _ in WEIGHTS}


def pictures():
    """Images, and reconstructions that are between them and noise."""
    rng = np.random.default_rng(7)
    shape = (SIDE, SIDE, 3)
    seen = rng.integers(0, 256, (IMAGES, *shape))
    noise = rng.integers(0, 256, (IMAGES * REPEATS, *shape))
    return seen.astype(np.uint8), (0.4 * seen[SHOWN] + 0.6 * noise).astype(np.uint8)


def features(name, layer, images):
    """What the network above sees, worked out without it."""
    # Channels first, as a network has them.
    flat = np.moveaxis(images / 255.0, -1, 1).reshape(len(images), -1)
    before = [WEIGHTS["alexnet", "layer2"]] if layer == "layer5" else []
    for known in (*before, WEIGHTS[name, layer]):
        flat = flat @ known.astype(np.float64)
    return flat


def two_way_by_hand(seen, decoded):
    r = [[np.corrcoef(a, b)[0, 1] for b in decoded] for a in seen]
    wins = [r[i][j] < r[j][j] for i in range(len(r)) for j in range(len(r)) if i != j]
    return float(np.mean(wins))


def distance_by_hand(seen, decoded):
    return float(
        np.mean([correlation(a, b) for a, b in zip(seen, decoded, strict=True)])
    )


def wanted(seen, decoded, design):
    found = {}
    for figure, (name, layer) in SEEN_BY.items():
        by_hand = two_way_by_hand if figure in TWO_WAY else distance_by_hand
        a, b = (features(name, layer, images) for images in (seen, decoded))
        found[figure] = np.mean(
            [by_hand(a[design.image[rows]], b[rows]) for rows in design.repetitions]
        )
    return found


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_each_metric_is_of_its_own_network_and_layer(design):
    seen, decoded = pictures()
    decoded = decoded[: len(design.image)]
    ledger = Ledger([str(i) for i in range(IMAGES)])

    found = image_figures(
        seen, decoded, design, NETWORKS, np.random.default_rng(0),
        source="measured responses", decoder="own", ledger=ledger,
    )  # fmt: skip

    by_hand = wanted(seen, decoded, design)
    # No two are alike, so that none can stand in the place of another.
    values = np.sort(list(by_hand.values()))
    assert (np.diff(values) > 0.01).all(), by_hand
    for figure, mean in by_hand.items():
        value = getattr(found, figure)
        assert value.mean == pytest.approx(mean, abs=1e-5), figure
        assert value.low < value.mean < value.high
        assert value.chance == (0.5 if figure in TWO_WAY else None)
        assert value.n == IMAGES
        kept, about = ledger.values[
            f"images/{design.trials}/measured responses/own/{figure}"
        ]
        assert kept.mean() == pytest.approx(mean, abs=1e-5)
        np.testing.assert_array_equal(about, design.about)


def at_256(images):
    small = [Image.fromarray(one).resize((256, 256), 2) for one in images]
    return np.stack([np.asarray(one) for one in small])


def test_pixels_and_networks_alike_see_256_pixels_of_larger_pictures():
    rng = np.random.default_rng(8)
    shown = rng.integers(0, 256, (3, 425, 425, 3)).astype(np.uint8)
    decoded = rng.integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)
    pairs = {"as kept": (shown, decoded), "at 256": (at_256(shown), at_256(decoded))}

    found = {
        name: image_figures(
            *pair, Design.averaged(np.arange(3)), NETWORKS, np.random.default_rng(0),
            source="measured responses", decoder="own",
        )
        for name, pair in pairs.items()
    }  # fmt: skip

    assert found["as kept"] == found["at 256"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_is_absent_takes_its_own_metrics_along_and_no_other(name):
    seen, decoded = pictures()
    networks = NETWORKS | {name: Absent(f"no weights of {name}")}

    found = image_figures(
        seen, decoded[:IMAGES], DESIGNS["averaged"], networks,
        np.random.default_rng(0), source="measured responses", decoder="own",
    )  # fmt: skip

    for figure, (of, _) in SEEN_BY.items():
        value = getattr(found, figure)
        assert isinstance(value, Absent) == (of == name), figure
        if of == name:
            assert value.reason == f"no weights of {name}"
