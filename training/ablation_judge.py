"""What a trained variant of the model is worth on held-out trials, in torch.

Pure: models and arrays in, figures out. No file, no clock, no export.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from runtime.heads import Retrieval
from runtime.path import path_from_name
from runtime.preprocess import FeatureSpace
from runtime.solver import solver_from_name
from training.ablation import Sampler
from training.config import ModelConfig
from training.dataset import Dataset
from training.flow import decode_latents, encode_latents
from training.judge import top1
from training.metrics.correlation import check_paired, standard_rows
from training.metrics.voxels import image_means
from training.neurovae import Latent, NeuroVAE
from training.sit import SiT

Carry = Callable[[Latent], Latent]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A participant's test trials, and what answers are chosen from."""

    voxels: Float32[np.ndarray, "trials voxels"]
    """In the model's units."""
    image: Int64[np.ndarray, " trials"]
    """Row of `latents` that each trial showed."""
    mean_voxels: Float32[np.ndarray, "images voxels"]
    """The mean beta of an image's trials, in the model's units."""
    measured: Float32[np.ndarray, "images voxels"]
    """The same in percent signal."""
    images: Int64[np.ndarray, " images"]
    """Row of `latents` of each."""
    latents: Float32[np.ndarray, "pictures tokens width"]
    gallery: Int64[np.ndarray, " items"]
    """Rows of `latents` that retrieval may answer with."""
    latent_mean: Float32[np.ndarray, "tokens width"]
    """Over the training images."""
    space: FeatureSpace
    visual: Bool[np.ndarray, " voxels"]
    """Voxels that encoding is judged on."""


def held_out(dataset: Dataset, visual: Bool[np.ndarray, " voxels"]) -> HeldOut:
    """Take a participant's test split apart.

    Args:
        dataset: With the splits train and test.
        visual: Voxels that encoding is judged on.
    """
    test = dataset.betas.select("test")
    shown = dataset.rows(test)
    measured = image_means(test.betas, shown)[0].astype(np.float32)
    return HeldOut(
        voxels=dataset.space.to_model(test.betas),
        image=shown,
        mean_voxels=dataset.space.to_model(measured),
        measured=measured,
        images=np.unique(shown),
        latents=dataset.latents,
        gallery=np.array(dataset.stimuli.gallery_rows(), dtype=np.int64),
        latent_mean=dataset.latent_mean(),
        space=dataset.space,
        visual=visual,
    )


class Judged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one sampler makes of the held-out trials."""

    sampler: Sampler | None
    """None: no flow."""
    single: list[bool]
    """Whether each trial finds its image in the gallery."""
    three: list[bool]
    """The same of the mean of an image's trials."""
    encoding: list[float]
    """Share of each image in r across images; see `correlation_shares`."""
    synthetic: list[bool]
    """Whether the retrieval head finds each image from the model's own prediction of
    its response: self-consistency."""
    round_trip: float | None
    """Relative error of z_v after encoding and decoding, mean over images."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a trained variant is worth on one participant."""

    gallery: int
    """Items that retrieval chose from."""
    image: list[int]
    """What each single trial showed."""
    images: list[int]
    """What the per-image figures are about."""
    raw: list[bool]
    """Whether the retrieval head finds each image from the mean of its trials."""
    judged: list[Judged]


@torch.no_grad()
def judge(
    vae: NeuroVAE,
    field: SiT | None,
    config: ModelConfig,
    held: HeldOut,
    samplers: Sequence[Sampler | None],
) -> Judgement:
    """Judge a trained model on held-out trials.

    Args:
        vae: In evaluation mode.
        field: Its flow; None takes z_n for z_v and z_v for z_n.
        config: The model's.
        held: Trials and gallery.
        samplers: How the flow is followed; each gives one `Judged`.
    """
    centre = np.zeros_like(held.latent_mean)
    if config.centre_latents:
        centre = held.latent_mean
    ids = [str(row) for row in held.gallery]
    # In the space that the model knows: what it subtracts is not subtracted again.
    gallery = held.latents[held.gallery] - centre
    unknown = held.latent_mean - centre
    search = Retrieval(gallery, ids, ids, mean=unknown, temperature=1.0)

    def found(latents: Latent, shown: Int64[np.ndarray, " n"]) -> list[bool]:
        rows = latents.float().numpy()
        return [bool(hit) for hit in top1(search, rows, [str(row) for row in shown])]

    z_v = torch.from_numpy(held.latents[held.images] - centre)
    single = vae.encode(torch.from_numpy(held.voxels))
    features = vae.features(torch.from_numpy(held.mean_voxels))
    three = vae.posterior(features).mean
    judged = []
    for sampler in samplers:
        encode, decode = _ways(field, config.flow_training.path, sampler)
        z_n = encode(z_v).float()
        response = vae.decode(z_n)
        predicted = held.space.from_model(response.numpy())
        shares = correlation_shares(predicted, held.measured, held.visual)
        again = None if sampler is None else _relative(decode(z_n), z_v)
        judged.append(
            Judged(
                sampler=sampler,
                single=found(decode(single), held.image),
                three=found(decode(three), held.images),
                encoding=shares.tolist(),
                synthetic=found(vae.retrieval(vae.features(response)), held.images),
                round_trip=again,
            )
        )
    return Judgement(
        gallery=len(ids),
        image=held.image.tolist(),
        images=held.images.tolist(),
        raw=found(vae.retrieval(features), held.images),
        judged=judged,
    )


def _ways(
    field: SiT | None, path_name: str, sampler: Sampler | None
) -> tuple[Carry, Carry]:
    """Return how latents are encoded and decoded."""
    if field is None or sampler is None:
        return lambda z: z, lambda z: z
    flow, path = field, path_from_name(path_name)
    solver, steps = solver_from_name(sampler.solver, path_name), sampler.steps
    return (
        lambda z: encode_latents(flow, z, steps, solver, path),
        lambda z: decode_latents(flow, z, steps, solver, path),
    )


def _relative(found: Tensor, expected: Tensor) -> float:
    wide = expected.double().flatten(1)
    errors = (found.double().flatten(1) - wide).norm(dim=1) / wide.norm(dim=1)
    return float(errors.mean())


def correlation_shares(
    predicted: Float32[np.ndarray, "images voxels"],
    measured: Float32[np.ndarray, "images voxels"],
    voxels: Bool[np.ndarray, " voxels"],
) -> Float64[np.ndarray, " images"]:
    """Return each image's share in the mean over voxels of r across images.

    A correlation is no mean over images; to first order it is, by its influence
    function (Devlin et al., 1975): with standardised a and b, an image's share is
    ``a b - r (a^2 + b^2) / 2 + r``. The mean is r itself, and shares can be paired and
    resampled as hits can.

    Args:
        predicted: One row an image.
        measured: Of the same images.
        voxels: Which ones to average over.

    Raises:
        TensorMismatchError: Other shapes.
    """
    check_paired("responses", predicted, measured)
    scale = np.sqrt(len(predicted))
    a = standard_rows(predicted[:, voxels].T).T * scale
    b = standard_rows(measured[:, voxels].T).T * scale
    product = a * b
    r = product.mean(axis=0)
    shares: Float64[np.ndarray, " images"] = (product - r * (a**2 + b**2) / 2 + r).mean(
        axis=1
    )
    return shares
