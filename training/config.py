"""Configurations and presets of the model and its two training stages.

Every size is a field. A configuration travels with its checkpoint and is hashed into
the bundle; an unknown key is an error.
"""

import hashlib
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from runtime.closed_words import in_our_words
from runtime.errors import ConfigError
from training.stage_config import FlowTraining, Positive, VAETraining

__all__ = [
    "PRESETS",
    "FlowTraining",
    "ModelConfig",
    "NeuroVAEConfig",
    "SiTConfig",
    "VAETraining",
    "config_from_json",
    "config_from_preset",
]

_CAME_LATER = {
    "": {"validation_share": 0.0},
    "vae_training": {
        "token_dropout": 0.0,
        "patience": VAETraining().patience,
    },
    "flow_training": {
        "token_dropout": 0.0,
        "patience": FlowTraining().patience,
    },
}
"""Fields that a checkpoint may be older than, with what they mean where it is."""


class NeuroVAEConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Sizes of NeuroVAE; the published ones are the preset ``paper-subj01``."""

    voxels: Positive
    """Length of the voxel vector of this subject."""
    tokens: Positive
    """Token axis m of z_n; equals ``channels * channel_multipliers[-1]``."""
    width: Positive
    """Feature axis d of z_n."""
    hidden: Positive
    """Hidden width of the voxel projections."""
    channels: Positive
    """Channels after the first convolution."""
    channel_multipliers: tuple[Positive, ...]
    """Channels of each level as multiples of `channels`."""
    blocks: Positive = 2
    """Residual blocks per encoder level; the decoder has one more."""
    downsamplings: Annotated[int, msgspec.Meta(ge=0)] = 2
    """Levels that are followed by a stride of two."""
    groups: Positive = 32
    """Groups of every group normalisation; divides `channels`."""
    decoded_from: Literal["z_n"] | msgspec.UnsetType = msgspec.UNSET
    """What voxels are decoded from: z_c where nothing is said, as published; ``z_n`` is
    the ablation without that bottleneck (`training.ablation`).

    Unset, it stays out of the JSON: published models keep their fingerprints.
    """

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other.

        Raises:
            ConfigError: One clear line with the two numbers.
        """
        top = self.channels * self.channel_multipliers[-1]
        if top != self.tokens:
            raise ConfigError(
                f"vae.tokens: expected channels * channel_multipliers[-1] = {top}, "
                f"found {self.tokens}"
            )
        if self.channels % self.groups:
            raise ConfigError(
                f"vae.groups: expected a divisor of channels {self.channels}, "
                f"found {self.groups}"
            )
        if self.downsamplings >= len(self.channel_multipliers):
            raise ConfigError(
                "vae.downsamplings: expected fewer than the "
                f"{len(self.channel_multipliers)} levels, found {self.downsamplings}"
            )


class SiTConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the velocity field."""

    tokens: Positive
    """Token axis m of the latents."""
    width: Positive
    """Feature axis d of the latents."""
    depth: Positive
    """Transformer blocks."""
    heads: Positive
    """Attention heads; divides `width`."""
    mlp_ratio: Positive = 4
    """Hidden width of a block's MLP as a multiple of `width`."""
    frequencies: Positive = 256
    """Length of the sinusoidal embedding of t; even."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other.

        Raises:
            ConfigError: One clear line with the two numbers.
        """
        if self.width % self.heads:
            raise ConfigError(
                f"flow.heads: expected a divisor of width {self.width}, "
                f"found {self.heads}"
            )
        if self.width % 2:
            raise ConfigError(
                "flow.width: expected an even number, half sines and half cosines of "
                f"a token's place, found {self.width}"
            )
        if self.frequencies % 2:
            raise ConfigError(
                f"flow.frequencies: expected an even number, found {self.frequencies}"
            )


class ModelConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The whole model and how it is trained."""

    preset: str
    """Name of the row of `PRESETS` that this configuration started from."""
    vae: NeuroVAEConfig
    """NeuroVAE's sizes."""
    flow: SiTConfig
    """The velocity field's sizes."""
    centre_latents: bool = False
    """Whether both stages see z_v minus its mean over the training images.

    Published: no. Where images share most of their latent (pixels do; so do CLIP tokens
    to a lesser degree), cosines among images are all near one, SoftCLIP's soft targets
    nearly uniform and the flow busy with what is the same for all.
    """
    vae_training: VAETraining = VAETraining()
    """Stage 1."""
    flow_training: FlowTraining = FlowTraining()
    """Stage 2."""
    validation_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Share of the training images that both stages leave out and judge every epoch;
    the weights that are best there are kept. 0, as published: train to the end."""

    def __post_init__(self) -> None:
        """Refuse two latents of different shape.

        Raises:
            ConfigError: One clear line with the two shapes.
        """
        vae = (self.vae.tokens, self.vae.width)
        flow = (self.flow.tokens, self.flow.width)
        if vae != flow:
            raise ConfigError(f"flow: expected latents {vae} as in vae, found {flow}")

    def fingerprint(self) -> str:
        """Return the sha256 of the canonical JSON of this configuration."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def canonical(self) -> bytes:
        """Return this configuration as JSON with sorted keys, for hashing.

        A field that came later is left out where it changes nothing, so that what was
        trained before it keeps its fingerprint.
        """
        whole: dict[str, Any] = msgspec.to_builtins(self)
        for part, fields in _CAME_LATER.items():
            section = whole[part] if part else whole
            for name, value in fields.items():
                if section[name] == value:
                    del section[name]
        return msgspec.json.encode(whole, order="sorted")


def _paper(voxels: int, subject: str) -> ModelConfig:
    return ModelConfig(
        preset=f"paper-subj{subject}",
        vae=NeuroVAEConfig(
            voxels=voxels,
            tokens=256,
            width=1664,
            hidden=1024,
            channels=64,
            channel_multipliers=(1, 2, 4),
        ),
        flow=SiTConfig(tokens=256, width=1664, depth=12, heads=13),
    )


PRESETS = MappingProxyType(
    {
        config.preset: config
        for config in (
            # 59,756,334 + 610,316,928 parameters; voxels of nsdgeneral at 1.8 mm.
            _paper(15_724, "01"),
            _paper(14_278, "02"),
            _paper(13_039, "05"),
            _paper(12_682, "07"),
            # The simulated participant of `neuroflow demo`: one to two minutes a
            # stage on one core. `voxels` is replaced by the participant's own count.
            # The contrastive and KL weights are published for 15,724 voxels and 425,984
            # latent values, both summed over; these are the same balance at this size.
            # What the row reaches on unseen participants: docs/participant.md.
            ModelConfig(
                preset="demo",
                vae=NeuroVAEConfig(
                    voxels=1000,
                    tokens=16,
                    width=192,
                    hidden=256,
                    channels=16,
                    channel_multipliers=(1,),
                    blocks=1,
                    downsamplings=0,
                    groups=4,
                ),
                flow=SiTConfig(tokens=16, width=192, depth=2, heads=6),
                centre_latents=True,
                vae_training=VAETraining(
                    epochs=16,
                    batch=32,
                    learning_rate=1.5e-3,
                    kl_weight=0.01,
                    clip_weight=100.0,
                    cycle_weight=100.0,
                    voxel_noise=1.0,
                    first_layer="ridge",
                ),
                flow_training=FlowTraining(
                    steps=250,
                    batch=64,
                    learning_rate=2e-3,
                    ema_decay=0.98,
                    time_sampling="arcsine",
                ),
            ),
            # Haxby's recording, eight categories, 530 voxels, 800 trials: noise on the
            # input and a start at ridge's directions are what generalises; loss weights
            # as published. One resolution and a batch of 32 because a fold must train
            # in seconds on one core.
            # `neuroflow evaluate`, docs/recorded.md.
            ModelConfig(
                preset="haxby",
                vae=NeuroVAEConfig(
                    voxels=530,
                    tokens=8,
                    width=16,
                    hidden=64,
                    channels=8,
                    channel_multipliers=(1,),
                    blocks=1,
                    downsamplings=0,
                    groups=4,
                ),
                flow=SiTConfig(tokens=8, width=16, depth=2, heads=4, frequencies=64),
                centre_latents=True,
                vae_training=VAETraining(
                    epochs=20,
                    batch=32,
                    learning_rate=2e-3,
                    weight_decay=0.3,
                    voxel_noise=1.5,
                    first_layer="ridge",
                ),
                flow_training=FlowTraining(
                    steps=400,
                    batch=32,
                    learning_rate=4e-3,
                    ema_decay=0.98,
                    voxel_noise=1.5,
                ),
            ),
            # Small enough for a unit test of every part.
            ModelConfig(
                preset="tiny",
                vae=NeuroVAEConfig(
                    voxels=37,
                    tokens=8,
                    width=12,
                    hidden=24,
                    channels=4,
                    channel_multipliers=(1, 2, 2),
                    groups=2,
                ),
                flow=SiTConfig(tokens=8, width=12, depth=2, heads=3, frequencies=16),
                centre_latents=True,
                vae_training=VAETraining(epochs=2, batch=8, learning_rate=1e-3),
                flow_training=FlowTraining(
                    steps=8, batch=8, learning_rate=1e-3, ema_decay=0.9
                ),
            ),
        )
    }
)
"""Named configurations; the row's comment says what it is for."""


def config_from_preset(name: str, *, voxels: int | None = None) -> ModelConfig:
    """Return a preset, with this subject's voxel count where one is given.

    Raises:
        ConfigError: No preset has this name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}, found {name}")
    config = PRESETS[name]
    if voxels is None:
        return config
    vae = msgspec.structs.replace(config.vae, voxels=voxels)
    return msgspec.structs.replace(config, vae=vae)


def config_from_json(data: bytes) -> ModelConfig:
    """Decode and check a configuration.

    Raises:
        ConfigError: An unknown key, a wrong type or an impossible value.
    """
    try:
        return msgspec.json.decode(data, type=ModelConfig)
    except msgspec.DecodeError as error:
        said = in_our_words(error, ModelConfig, data) or f"configuration: {error}"
        raise ConfigError(said) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"configuration: {error}") from error
