"""The sizes by which a benchmark knows what a model must compute."""

from runtime.bench.work import (
    Sizes,
    Work,
    decoder,
    encoder,
    evaluation,
    front,
    heads,
    total,
)
from runtime.errors import ConfigError
from runtime.manifest import Manifest
from training.config import ModelConfig, config_from_preset


def sizes_of_config(config: ModelConfig) -> Sizes:
    """Return the sizes of a configuration."""
    vae, flow = config.vae, config.flow
    return Sizes(
        voxels=vae.voxels,
        tokens=vae.tokens,
        width=vae.width,
        depth=flow.depth,
        mlp_ratio=flow.mlp_ratio,
        hidden=vae.hidden,
        channels=vae.channels,
        channel_multipliers=vae.channel_multipliers,
        blocks=vae.blocks,
        downsamplings=vae.downsamplings,
        is_compact=vae.decoded_from != "z_n",
    )


def sizes_of_bundle(manifest: Manifest) -> Sizes | None:
    """Return the sizes of a bundle's model; None where no preset explains them.

    A manifest names the preset and the hash of the whole configuration; with another
    configuration its graphs run, but what they must compute is not known here.
    """
    training = manifest.training
    try:
        config = config_from_preset(training.preset, voxels=manifest.voxels.count)
    except ConfigError:
        return None
    is_it = config.fingerprint() == training.config_sha256
    return sizes_of_config(config) if is_it else None


def work_of(
    sizes: Sizes | None, *, gallery: int, components: int, evaluations: int
) -> dict[str, Work]:
    """Return the work of each stage that has a limit.

    Args:
        sizes: Of the model.
        gallery: Items that the heads search.
        components: Directions of noise that the front end whitens.
        evaluations: Of the decode direction.
    """
    if sizes is None:
        return {}
    found = {
        "front": front(sizes, components),
        "encoder": encoder(sizes),
        "step": evaluation(sizes),
        "heads": heads(sizes, gallery),
        "decoder": decoder(sizes),
    }
    parts = [found["front"], found["encoder"], found["heads"]]
    steps = [found["step"]] * evaluations
    return found | {"served flow": total(steps), "decode": total([*parts, *steps])}
