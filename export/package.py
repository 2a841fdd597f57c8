"""Writes a bundle: all of it, judged, under its final name; or nothing.

The one module of export that touches the disk for good. Dates and progress are
arguments.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from jaxtyping import Float32
from safetensors.numpy import save_file

from export.assemble import (
    Precision,
    autoencoder_graphs,
    check_precisions,
    flow_of,
    write_autoencoder,
)
from export.graphs import Graph
from export.judging import gates_of_flow
from export.parity import (
    Array,
    Reference,
    flow_vectors,
    golden_vectors,
    stressed,
    unit_latents,
)
from export.preprocessing import Preprocessing
from export.retrieval import ITEMS, blends, task_of
from runtime.bundle import (
    GOLDEN,
    TENSORS,
    BackboneSpec,
    FlowSpec,
    GateSpec,
    LatentSpec,
    Manifest,
    TensorSpec,
    TrainingSpec,
    write_manifest,
)
from runtime.errors import ArtifactError, TensorMismatchError
from runtime.estimator import motion_of
from runtime.manifest import EIGHT_BITS, input_kind
from runtime.sealed import seal
from runtime.solver import Direction, Solver, solver_from_name, time_grid
from runtime.writing import writing
from training.config import ModelConfig
from training.neurovae import NeuroVAE
from training.sit import SiT

_SEED: Final = 7
_SAMPLES: Final = 4
"""Latents that a stressed field is judged at."""
Progress = Callable[[str], None]


def _tensor_specs(arrays: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    return tuple(
        msgspec.convert(
            {"name": name, "shape": array.shape, "dtype": array.dtype.name}, TensorSpec
        )
        for name, array in sorted(arrays.items())
    )


def _fingerprint(module: torch.nn.Module) -> str:
    """Return a hash of a module's weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _manifest(
    config: ModelConfig,
    vae: NeuroVAE,
    field: SiT,
    preprocessing: Preprocessing,
    flow: FlowSpec,
    backbone: BackboneSpec,
    created: str,
) -> Manifest:
    """Return the manifest's statements; graphs, gates and files come as they exist."""
    return Manifest(
        subject=preprocessing.subject,
        created=created,
        input_kind=input_kind(preprocessing.estimator),
        voxels=preprocessing.voxels(),
        estimator=preprocessing.estimator,
        preprocessing_sha256=preprocessing.sha256(),
        flow=flow,
        graphs=(),
        tensors=(),
        golden=(),
        backbone=backbone,
        latent=LatentSpec(tokens=config.flow.tokens, width=config.flow.width),
        training=TrainingSpec(
            preset=config.preset,
            config_sha256=config.fingerprint(),
            vae_sha256=_fingerprint(vae),
            flow_sha256=_fingerprint(field),
        ),
        gates=(),
        files=(),
    )


def _flow_spec(
    config: ModelConfig, solver: Solver, steps: Mapping[Direction, int]
) -> FlowSpec:
    return FlowSpec(
        path=config.flow_training.path,
        is_centred=config.centre_latents,
        solver=solver.name,
        decode_times=time_grid(steps["decode"], "decode"),
        encode_times=time_grid(steps["encode"], "encode"),
        decode_evaluations=solver.evaluations * steps["decode"],
        encode_evaluations=solver.evaluations * steps["encode"],
    )


def _check_inputs(
    config: ModelConfig, preprocessing: Preprocessing, latent_mean: Array, golden: Array
) -> None:
    """Refuse arrays that do not fit the model.

    Raises:
        TensorMismatchError: Naming the array.
    """
    voxels = config.vae.voxels
    latent = (config.flow.tokens, config.flow.width)
    masked = int(np.count_nonzero(preprocessing.mask))
    for name, found, expected in (
        ("mask", (masked,), (voxels,)),
        ("voxel_mean", preprocessing.space.affine.mean.shape, (voxels,)),
        ("voxel_scale", preprocessing.space.affine.scale.shape, (voxels,)),
        ("latent_mean", latent_mean.shape, latent),
        ("golden voxels", golden.shape, (max(1, len(golden)), voxels)),
    ):
        if tuple(found) != expected:
            raise TensorMismatchError(
                name, expected=str(list(expected)), found=str(list(found))
            )
    wanted = motion_of(preprocessing.estimator) is not None
    if wanted != (preprocessing.reference is not None):
        raise TensorMismatchError(
            "reference",
            expected="one exactly where the estimator corrects motion",
            found="none" if wanted else "one",
        )
    if not (preprocessing.space.affine.scale >= 0).all():
        raise TensorMismatchError(
            "voxel_scale", expected="no negative number", found="some"
        )


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Give a folder that becomes `out` if all goes well, and vanishes if not.

    Raises:
        ArtifactError: `out` exists, or the system refuses to write it.
    """
    if out.exists() or out.is_symlink():
        raise ArtifactError(f"{out}: expected no such folder yet, found one")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            yield staging
            for folder, _, files in os.walk(staging):
                for name in files:
                    Path(folder, name).chmod(0o644)
                    _sync(Path(folder, name))
                _sync(Path(folder))
            staging.chmod(0o755)
            staging.rename(out)
            _sync(out.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def export_bundle(
    vae: NeuroVAE,
    field: SiT,
    config: ModelConfig,
    preprocessing: Preprocessing,
    latent_mean: Float32[np.ndarray, "tokens width"],
    golden_voxels: Float32[np.ndarray, "k voxels"],
    out: Path,
    *,
    backbone: BackboneSpec,
    created: str,
    solver: str = "rotation",
    steps: int = 2,
    encode_steps: int | None = None,
    precisions: Sequence[Precision] = ("f32",),
    progress: Progress = lambda _stage: None,
) -> Path:
    """Write a model as a bundle that has proved itself.

    Args:
        vae: Trained NeuroVAE, on the CPU; not changed.
        field: Trained velocity field (its averaged weights), on the CPU; not changed.
        config: The configuration of both.
        preprocessing: What the voxels went through before the encoder saw them.
        latent_mean: Mean of z_v over the training images.
        golden_voxels: At least one sample of real normalised voxels.
        out: The bundle; must not exist. It appears complete or not at all.
        backbone: Identity of the visual backbone that gives z_v.
        created: ISO date of today.
        solver: A name of `runtime.solver.SOLVERS` that fits the path.
        steps: Solver steps of the decode direction.
        encode_steps: Solver steps of the encode direction; `steps` where None.
        precisions: What the graphs are written in, f32 among them; each must pass its
            gate.
        progress: Called with a line before each stage.

    Returns:
        `out`.

    Raises:
        ArtifactError: `out` exists, or cannot be written.
        ConfigError: Unknown solver, or one that does not fit the path; precisions
            without f32.
        TensorMismatchError: An array does not fit the model.
        ParityError: The graphs do not compute what the model computes in float64.
    """
    _check_inputs(config, preprocessing, latent_mean, golden_voxels)
    check_precisions(precisions)
    path = config.flow_training.path
    counts: dict[Direction, int] = {"decode": steps, "encode": encode_steps or steps}
    method = solver_from_name(solver, path)
    flow = _flow_spec(config, method, counts)
    gates: tuple[GateSpec, ...] = ()
    vae, field = vae.eval(), field.eval()
    draft = _manifest(config, vae, field, preprocessing, flow, backbone, created)
    with _staged(out) as folder:
        for name in ("graphs", "golden"):
            (folder / name).mkdir()
        progress("export the voxel encoder and decoder")
        autoencoder = autoencoder_graphs(vae)
        graphs = write_autoencoder(autoencoder, precisions, folder)
        draft = msgspec.structs.replace(draft, graphs=graphs)
        centre = latent_mean if draft.flow.is_centred else 0.0
        traced: tuple[SiT, Graph] | None = None
        for label, judged in (("stressed", stressed(field, _SEED)), ("trained", field)):
            progress(f"export and judge the {label} velocity field")
            reference = Reference(vae, judged, method, counts, centre=centre)
            golden = (
                golden_vectors(reference, golden_voxels)
                if judged is field
                else flow_vectors(reference, unit_latents(field, _SAMPLES, _SEED))
            )
            exported = flow_of(judged, method, counts, traced)
            # Of the stressed field, which comes first: no two of its weights are alike.
            traced = traced or (judged, exported.step)
            retrieval = None
            if set(EIGHT_BITS) & set(precisions):
                latents = (
                    reference.encode_voxels(blends(golden_voxels, ITEMS, _SEED))[0]
                    if judged is field
                    else unit_latents(field, ITEMS, _SEED + 1)
                )
                retrieval = task_of(reference, latents, _SEED)
                # One sample is kept from calibration, so that the judge sees a new one.
                for z, t in reference.visited(golden["z_n"], golden["z_v"]):
                    shown = max(1, len(z) - 1)
                    exported.ranges.watch(z[:shown], [t] * shown)
            driven = exported.tensors() | {"latent_mean": latent_mean}
            manifest, found = gates_of_flow(
                exported,
                autoencoder,
                draft,
                driven,
                golden,
                folder,
                precisions,
                label,
                retrieval,
            )
            gates += found
        progress("seal the bundle")
        # Of the trained field, which came last and lies in the folder.
        tensors = preprocessing.tensors() | driven
        kept = {name: array.astype(np.float32) for name, array in golden.items()}
        manifest = msgspec.structs.replace(
            manifest,
            tensors=_save(folder / TENSORS, tensors),
            golden=_save(folder / GOLDEN, kept),
            gates=gates,
        )
        manifest = msgspec.structs.replace(manifest, files=seal(folder))
        write_manifest(folder, manifest)
    return out


def _save(path: Path, arrays: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    return _tensor_specs(arrays)
