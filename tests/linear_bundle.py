"""A bundle that really decodes and encodes, without training: ridge as its graphs.

The encoder is one matrix fitted to a simulated participant's trials, the decoder
another, and the flow turns the sign. Everything else is as in any bundle.
"""

import atexit
import functools
import hashlib
import shutil
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
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
from runtime.estimator import BetaEstimator, ExternalEstimator, units_of
from runtime.gallery import write_gallery
from runtime.manifest import affine_rows
from runtime.patch_dct import PatchDct
from runtime.preprocess import FeatureSpace, VoxelMask
from runtime.sealed import seal
from tests.sealed_folder import SHA, specs
from training.dataset import open_dataset
from training.participant import generate_participant, tiny
from training.ridge import fit_ridge

BACKBONE = PatchDct(image_size=32, patch=8)
BETAS = BetaEstimator(decision_delay_s=8.0, noise_shrinkage=0.4)


def _graph(folder, name, inputs, outputs, nodes, weights):
    """Write a graph; return its spec."""
    ports = [
        [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, s.shape) for s in one]
        for one in (inputs, outputs)
    ]
    held = [numpy_helper.from_array(a, key) for key, a in weights.items()]
    graph = helper.make_graph(nodes, name, *ports, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    onnx.save(model, folder / f"graphs/{name}.onnx")
    return GraphSpec(
        name=name, file=f"graphs/{name}.onnx", opset=20, precision="f32",
        inputs=inputs, outputs=outputs,
    )  # fmt: skip


def _graphs(folder, readout, patterns, latent):
    voxels, z = readout.shape[0], (1, *latent)
    shape = np.array(z, np.int64)
    x, z_n, z_v = (
        TensorSpec(name=name, shape=sides)
        for name, sides in (("voxels", (1, voxels)), ("z_n", z), ("z_v", z))
    )
    retrieval = TensorSpec(name="retrieval", shape=z)
    state, velocity = (TensorSpec(name=name, shape=z) for name in ("z", "velocity"))
    row = TensorSpec(name="modulation", shape=(1, 1))
    node = helper.make_node
    encoder = [
        node("MatMul", ["voxels", "readout"], ["flat"]),
        node("Reshape", ["flat", "shape"], ["z_n"]),
    ]
    projection = [
        node("MatMul", ["voxels", "readout"], ["flat"]),
        node("Reshape", ["flat", "shape"], ["retrieval"]),
    ]
    decoder = [
        node("Flatten", ["z_n"], ["flat"]),
        node("MatMul", ["flat", "patterns"], ["voxels"]),
    ]
    return (
        _graph(folder, "encoder", (x,), (z_n,), encoder,
               {"readout": -readout, "shape": shape}),
        _graph(folder, "retrieval", (x,), (retrieval,), projection,
               {"readout": readout, "shape": shape}),
        _graph(folder, "decoder", (z_n,), (x,), decoder, {"patterns": -patterns}),
        _graph(folder, "decode_flow", (z_n,), (z_v,),
               [node("Neg", ["z_n"], ["z_v"])], {}),
        _graph(folder, "encode_flow", (z_v,), (z_n,),
               [node("Neg", ["z_v"], ["z_n"])], {}),
        # One Euler step from z by 2 z is the sign's turn, whichever way time runs.
        _graph(folder, "step", (state, row), (velocity,),
               [node("Mul", ["z", "modulation"], ["velocity"])], {}),
    )  # fmt: skip


def write_linear_bundle(
    folder: Path,
    readout: np.ndarray,
    patterns: np.ndarray,
    *,
    space: FeatureSpace,
    mask: VoxelMask,
    latent_mean: np.ndarray,
    estimator: BetaEstimator | ExternalEstimator = BETAS,
    backbone: BackboneSpec | None = None,
) -> Path:
    """Write a bundle whose decoder is `readout` and whose encoder is `patterns`.

    Args:
        folder: New.
        readout: voxels x (tokens * width), of centred z_v.
        patterns: (tokens * width) x voxels, of centred z_v.
        space: The model's units.
        mask: Which voxels.
        latent_mean: tokens x width.
        estimator: How a trial is estimated.
        backbone: What z_v is; latents that are no images by default.
    """
    latent = latent_mean.shape
    for name in ("graphs", "golden"):
        (folder / name).mkdir(parents=True)
    readout, patterns = readout.astype(np.float32), patterns.astype(np.float32)
    graphs = _graphs(folder, readout, patterns, latent)
    mean = latent_mean.astype(np.float32)
    two = np.full((1, 1), 2, np.float32)
    tensors = space.tensors() | {
        "mask": mask.volume(),
        "latent_mean": mean,
        "conditioning_decode": two,
        "conditioning_encode": -two,
    }
    voxels = np.random.default_rng(0).standard_normal((1, mask.voxels))
    voxels = voxels.astype(np.float32)
    centred = (voxels.astype(np.float64) @ readout).reshape(1, *latent)
    golden = {
        "voxels": voxels,
        "z_n": -centred,
        "retrieval": centred,
        "z_v": centred + mean,
        "z_n_encoded": -centred,
        "voxels_predicted": centred.reshape(1, -1) @ patterns,
    }
    golden = {name: array.astype(np.float32) for name, array in golden.items()}
    save_file(tensors, folder / TENSORS)
    save_file(golden, folder / GOLDEN)
    manifest = Manifest(
        subject="sub-linear",
        created="2026-01-02",
        input_kind="beta",
        voxels=Voxels(
            count=mask.voxels,
            shape=mask.shape,
            mask_sha256=hashlib.sha256(tensors["mask"].tobytes()).hexdigest(),
            voxel_order_sha256=mask.sha256,
            affine=affine_rows(np.eye(4)),
            units=units_of(estimator),
        ),
        estimator=estimator,
        preprocessing_sha256=SHA,
        flow=FlowSpec(
            path="linear", solver="euler", is_centred=True,
            decode_times=(1.0, 0.0), encode_times=(0.0, 1.0),
            decode_evaluations=1, encode_evaluations=1,
        ),
        graphs=graphs,
        tensors=specs(tensors),
        golden=specs(golden),
        backbone=backbone or BackboneSpec(name="synthetic", image_size=8, patch=4),
        latent=LatentSpec(tokens=latent[0], width=latent[1]),
        training=TrainingSpec(
            preset="linear", config_sha256=SHA, vae_sha256=SHA, flow_sha256=SHA
        ),
        gates=(),
        files=(),
    )  # fmt: skip
    write_manifest(folder, msgspec.structs.replace(manifest, files=seal(folder)))
    return folder


def participant_table():
    """Fewer voxels than the frozen table, and a brain that is easier to read."""
    return msgspec.structs.replace(
        tiny(),
        training_images=100,
        calibration_images=60,
        test_images=40,
        test_repeats=2,
        distractor_images=40,
        signal_ratio=2.5,
        trial_variance_ratio=0.05,
        lapse_probability=0.0,
        roi_voxels=(40, 36, 32, 24, 28, 20, 20, 20),
    )


@functools.cache
def linear_session() -> Path:
    """A participant, and its bundle and gallery; never write into it."""
    scratch = Path(tempfile.mkdtemp(prefix="neuroflow-linear-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    root = generate_participant(scratch / "participant", participant_table(), 3).root
    dataset = open_dataset(root, BETAS, BACKBONE, splits=("train",))
    train, mean = dataset.split("train"), dataset.latent_mean()
    z_v = (dataset.latents - mean).reshape(len(dataset.latents), -1)[train.image]
    write_linear_bundle(
        scratch / "bundle",
        fit_ridge(train.voxels, z_v, 3000.0).weights,
        fit_ridge(z_v, train.voxels, 300.0).weights,
        space=dataset.space,
        mask=dataset.recording.mask,
        latent_mean=mean,
        backbone=BackboneSpec(name="patch_dct", image_size=32, patch=8),
    )
    rows = dataset.stimuli.gallery_rows()
    write_gallery(
        scratch / "gallery",
        latents=dataset.latents[rows],
        ids=[dataset.stimuli.ids[row] for row in rows],
        labels=[dataset.stimuli.labels[row] for row in rows],
    )
    return scratch
