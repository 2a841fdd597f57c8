"""A bundle without a model: sealed files of the right formats, for the loader."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from runtime.bundle import (
    GOLDEN,
    TENSORS,
    BackboneSpec,
    FlowSpec,
    GraphSpec,
    LatentSpec,
    Manifest,
    TensorSpec,
    TrainingSpec,
    Voxels,
    write_manifest,
)
from runtime.estimator import BetaEstimator
from runtime.preprocess.mask import VoxelMask
from runtime.sealed import WEIGHTS_MAGIC, seal

SHA = "0" * 64


def specs(arrays: dict[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    return tuple(
        msgspec.convert(
            {"name": k, "shape": a.shape, "dtype": a.dtype.name}, TensorSpec
        )
        for k, a in arrays.items()
    )


def write_folder(folder: Path) -> Manifest:
    """Write a bundle whose graph is not one, and return its manifest."""
    for name in ("graphs", "golden"):
        (folder / name).mkdir(parents=True)
    (folder / "graphs/encoder.onnx").write_bytes(b"\x08\x0a" + b"graph" * 10)
    (folder / "graphs/flow.weights").write_bytes(WEIGHTS_MAGIC + b"\x80\x04" * 9)
    mask = np.zeros((2, 2, 2), np.bool_)
    mask[0, 1, :] = True
    tensors = {
        "mask": mask,
        "voxel_mean": np.zeros(2, np.float32),
        "voxel_scale": np.ones(2, np.float32),
        "latent_mean": np.zeros((3, 4), np.float32),
        "conditioning_decode": np.zeros((1, 5), np.float32),
        "conditioning_encode": np.zeros((1, 5), np.float32),
    }
    golden = {"voxels": np.ones((1, 2), np.float32)}
    save_file(tensors, folder / TENSORS)
    save_file(golden, folder / GOLDEN)
    manifest = Manifest(
        subject="01",
        created="2026-01-02",
        input_kind="beta",
        voxels=Voxels(
            count=2,
            shape=(2, 2, 2),
            mask_sha256=hashlib.sha256(mask.tobytes()).hexdigest(),
            voxel_order_sha256=VoxelMask.from_volume(mask).sha256,
            affine=(
                (2.0, 0.0, 0.0, 0.0),
                (0.0, 2.0, 0.0, 0.0),
                (0.0, 0.0, 2.0, 0.0),
                (0.0, 0.0, 0.0, 1.0),
            ),
        ),
        estimator=BetaEstimator(),
        preprocessing_sha256=SHA,
        flow=FlowSpec(
            path="cos",
            solver="rotation",
            decode_times=(1.0, 0.0),
            encode_times=(0.0, 1.0),
            decode_evaluations=1,
            encode_evaluations=1,
            is_centred=False,
        ),
        graphs=(
            GraphSpec(
                name="encoder",
                file="graphs/encoder.onnx",
                opset=20,
                precision="f32",
                inputs=(TensorSpec(name="voxels", shape=(1, 2)),),
                outputs=(TensorSpec(name="z_n", shape=(1, 3, 4)),),
            ),
        ),
        tensors=specs(tensors),
        golden=specs(golden),
        backbone=BackboneSpec(name="patch_dct", image_size=32, patch=4),
        latent=LatentSpec(tokens=3, width=4),
        training=TrainingSpec(
            preset="tiny", config_sha256=SHA, vae_sha256=SHA, flow_sha256=SHA
        ),
        gates=(),
        files=seal(folder),
    )
    write_manifest(folder, manifest)
    return manifest
