"""Configurations and presets of the model and its two training stages.

Every size is a field. A configuration travels with its checkpoint and is hashed into
the bundle; an unknown key is an error.
"""

import hashlib
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from runtime.errors import ConfigError

Positive = Annotated[int, msgspec.Meta(ge=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


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
        if self.frequencies % 2:
            raise ConfigError(
                f"flow.frequencies: expected an even number, found {self.frequencies}"
            )


class VAETraining(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Stage 1: losses, weights and optimiser of NeuroVAE."""

    epochs: Positive = 30
    """Passes over the training trials; the released script has 30, the paper 50."""
    batch: Positive = 64
    """Trials per step; the incomplete last batch of an epoch is dropped."""
    learning_rate: NotNegative = 1e-4
    """Constant learning rate of AdamW."""
    weight_decay: NotNegative = 0.05
    """Decoupled weight decay of AdamW."""
    kl_weight: NotNegative = 1e-3
    """Weight of the KL term, summed over the latent."""
    clip_weight: NotNegative = 1000.0
    """Weight of SoftCLIP between the encodings of fMRI and z_v."""
    cycle_weight: NotNegative = 1000.0
    """Weight of SoftCLIP between the encodings of the reconstruction and z_v."""
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.125
    """Temperature of SoftCLIP."""
    voxel_noise: NotNegative = 0.0
    """Standard deviation of Gaussian noise added to the input voxels; 0 as published.

    With few trials this is the regulariser: noise on the input of a linear layer is
    ridge regression (Bishop, 1995).
    """
    voxel_dropout: Fraction = 0.0
    """Upper end of the uniformly drawn share of input voxels set to zero."""
    first_layer: Literal["random", "ridge"] = "random"
    """Start of the encoder's first linear layer; random as published.

    ``ridge`` starts it at the directions of voxel space that ridge regression to z_v
    uses (`training.first_layer`): with a thousand trials, training alone hardly finds
    them.
    """
    seed: int = 1024
    """Seed of initialisation, order, noise and posterior samples."""


class FlowTraining(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Stage 2: optimiser and sampling of the velocity field."""

    path: Literal["cos", "cos2", "linear"] = "cos"
    """Interpolant between z_v and z_n."""
    steps: Positive = 50_001
    """Optimiser steps."""
    batch: Positive = 24
    """Trials per step."""
    learning_rate: NotNegative = 1e-4
    """Constant learning rate of AdamW."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of AdamW."""
    gradient_norm: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: Fraction = 0.9999
    """Decay of the averaged weights, which are the ones that are exported."""
    time_sampling: Literal["uniform", "lognormal", "arcsine"] = "uniform"
    """Law of t: uniform as published, ``(2 / pi) atan(exp(normal))``, or
    ``sin(pi u / 2)^2`` of a uniform u, which draws most near both ends, where solvers
    of few steps evaluate the field."""
    voxel_noise: NotNegative = 0.0
    """Standard deviation of noise on the voxels before the frozen encoder."""
    seed: int = 0
    """Seed of initialisation, order, t and posterior samples."""


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
        canonical = msgspec.json.encode(self, order="sorted")
        return hashlib.sha256(canonical).hexdigest()


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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration: {error}") from error
