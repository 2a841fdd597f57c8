"""What a bundle says about itself: the structs of `manifest.json` and their codec.

Pure: bytes in, structs out. `runtime.bundle` reads files.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal, get_args

import msgspec
import numpy as np

from runtime.arrays import Shaped
from runtime.errors import BundleError, TensorMismatchError
from runtime.estimator import Estimator, Units, VolumeEstimator, units_of
from runtime.sealed import FileSpec
from runtime.solver import Direction
from runtime.strict_json import decode_once

MANIFEST: Final = "manifest.json"
TENSORS: Final = "tensors.safetensors"
GOLDEN: Final = "golden/golden.safetensors"

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Shape = tuple[Positive, ...]
DType = Literal["float32", "float64", "int64", "uint8", "bool"]
Affine = tuple[tuple[float, float, float, float], ...]
InputKind = Literal["volume", "beta"]
EightBits = Literal["int8", "fp8"]
"""8-bit numbers: integers, or floating point with four bits of exponent (E4M3FN)."""
GraphPrecision = Literal["f32", "f16", "bf16", "int8", "fp8"]
EIGHT_BITS: Final[tuple[EightBits, ...]] = get_args(EightBits)
"""Precisions of the flow's products alone; a bundle's other graphs are in float32."""

STRESSED: Final = "stressed."
"""What the names of gates begin with that a field with other weights passed."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name, shape and dtype of one tensor."""

    name: str
    shape: Shape
    dtype: DType = "float32"

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class GraphSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ONNX graph of the bundle."""

    name: str
    """``encoder``, ``decoder``, ``decode_flow``, ``encode_flow`` or ``step``."""
    file: str
    opset: Positive
    precision: GraphPrecision
    """Precision of the matrix products as the file writes them; inputs and outputs are
    float32. An engine may compute an f32 graph in another precision."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Voxels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which numbers the voxel vector holds, and in which order."""

    count: Positive
    shape: tuple[Positive, Positive, Positive]
    """Voxels along x, y and z of the volume that the mask selects from."""
    mask_sha256: Sha256
    """Hash of the mask as C-ordered bytes of 0 and 1."""
    voxel_order_sha256: Sha256
    """`runtime.preprocess.mask.VoxelMask.sha256`: the shape and the C-order indices."""
    affine: Affine
    """Voxel indices to scanner millimetres, the first three rows and (0, 0, 0, 1)."""
    units: Units = "percent"
    """Percent signal change (against the run's causal baseline, where the estimator is
    computed here), or z-scores within a session."""


class FlowSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the velocity is followed; folded into the unrolled graphs and the tables."""

    path: str
    solver: str
    decode_times: tuple[float, ...]
    """Grid of the decode direction, 1 to 0."""
    encode_times: tuple[float, ...]
    """Grid of the encode direction, 0 to 1."""
    decode_evaluations: Positive
    """Velocity evaluations of the whole decode direction."""
    encode_evaluations: Positive
    """Velocity evaluations of the whole encode direction."""
    is_centred: bool
    """Whether the flow's end at t = 0 is z_v minus the bundle's `latent_mean`."""

    def times(self, direction: Direction) -> tuple[float, ...]:
        """Return the grid of a direction."""
        return self.encode_times if direction == "encode" else self.decode_times


class BackboneSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The visual backbone whose tokens are z_v."""

    name: str
    image_size: Positive
    """Side of the square image in pixels."""
    patch: Positive
    """Side of a patch in pixels."""
    parameters_sha256: Sha256 | None = None
    """Hash of frozen weights; None where the backbone has none."""


class LatentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shape of z_v and z_n."""

    tokens: Positive
    width: Positive


class TrainingSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What the graphs were made of."""

    preset: str
    config_sha256: Sha256
    vae_sha256: Sha256
    flow_sha256: Sha256


class GateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured promise: `reached` is within `limit`."""

    name: str
    metric: Literal["rel_l2", "cosine", "nonfinite", "lost"]
    limit: float
    """At most this relative L2 error, number of non-finite numbers or of items that
    retrieval no longer finds, or at least this cosine."""
    reached: float
    precision: GraphPrecision = "f32"
    """Of the graphs that reached it."""

    @property
    def is_kept(self) -> bool:
        """Whether `reached` is within `limit`; what is not finite never is."""
        if not (math.isfinite(self.limit) and math.isfinite(self.reached)):
            return False
        if self.metric == "cosine":
            return self.reached >= self.limit
        return self.reached <= self.limit


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a bundle says about itself."""

    schema_version: Literal[1] = 1
    subject: str
    created: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """ISO date of the export."""
    input_kind: InputKind
    """What `voxels` of the encoder are; a bundle never gets the other."""
    voxels: Voxels
    estimator: Estimator
    preprocessing_sha256: Sha256
    flow: FlowSpec
    graphs: tuple[GraphSpec, ...]
    tensors: tuple[TensorSpec, ...]
    """Content of `tensors.safetensors`."""
    golden: tuple[TensorSpec, ...]
    """Content of `golden/golden.safetensors`."""
    backbone: BackboneSpec
    latent: LatentSpec
    training: TrainingSpec
    gates: tuple[GateSpec, ...]
    files: tuple[FileSpec, ...]
    """Exactly the files of the folder besides the manifest."""

    def graph(self, name: str, precision: str = "f32") -> GraphSpec:
        """Return the graph of this name and precision.

        Raises:
            BundleError: There is none.
        """
        for graph in self.graphs:
            if (graph.name, graph.precision) == (name, precision):
                return graph
        wanted = name if precision == "f32" else f"{name} in {precision}"
        names = ", ".join(
            graph.name
            if graph.precision == "f32"
            else f"{graph.name} {graph.precision}"
            for graph in self.graphs
        )
        remedy = "Export the bundle again."
        if precision != "f32":
            remedy = (
                f"Export it with --precisions f32 {precision}, or choose another "
                "precision."
            )
        raise BundleError(
            f"{MANIFEST}: expected a graph {wanted}, found {names}. {remedy}"
        )


def affine_rows(affine: Shaped[np.ndarray, "rows columns"]) -> Affine:
    """Return a matrix as a manifest holds it.

    Raises:
        TensorMismatchError: It is not 4 x 4 and finite.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise TensorMismatchError(
            "affine", expected="4 x 4 finite numbers", found=f"{affine.tolist()}"
        )
    rows = [[float(number) for number in row] for row in affine]
    return tuple((a, b, c, d) for a, b, c, d in rows)


def input_kind(estimator: Estimator) -> InputKind:
    """Return what an estimator makes of a recording: trials' betas, or volumes."""
    return "volume" if isinstance(estimator, VolumeEstimator) else "beta"


def decode_manifest(data: bytes, what: str = MANIFEST) -> Manifest:
    """Decode and check a manifest.

    Args:
        data: Its bytes.
        what: The file, for the message.

    Raises:
        BundleError: Not JSON, an unknown or missing field, a key said twice, or
            statements that contradict each other.
    """
    manifest = decode_once(data, Manifest, what)
    kind = input_kind(manifest.estimator)
    if kind != manifest.input_kind:
        raise BundleError(
            f"{what}: expected an estimator of kind {manifest.input_kind}, found {kind}"
        )
    units = units_of(manifest.estimator)
    if units != manifest.voxels.units:
        raise BundleError(
            f"{what}: voxels.units: expected {units} as the estimator's, "
            f"found {manifest.voxels.units}"
        )
    _check_kept(manifest.gates, what)
    listed = {spec.path for spec in manifest.files}
    named = {graph.file for graph in manifest.graphs} | {TENSORS, GOLDEN}
    if unlisted := named - listed:
        raise BundleError(
            f"{what}: expected files to list {', '.join(sorted(unlisted))}, "
            "found them missing"
        )
    return manifest


def _check_kept(gates: Sequence[GateSpec], what: str) -> None:
    for gate in gates:
        if not gate.is_kept:
            word = "at least" if gate.metric == "cosine" else "at most"
            raise BundleError(
                f"{what}: gates: {gate.name}: expected {gate.metric} {word} "
                f"{gate.limit:g}, found {gate.reached:g}. Export the bundle again."
            )


def check_judged(manifest: Manifest, what: str = MANIFEST) -> None:
    """Refuse graphs of fewer bits that no gate was recorded for.

    A rig has golden vectors to hold them against, but neither the stressed field nor
    retrieval: of those the manifest is all the evidence. Gates of the stressed field
    alone say nothing of what the bundle itself computes.

    Args:
        manifest: Of the bundle.
        what: The file, for the message.

    Raises:
        BundleError: Naming the precision and what is not recorded of it.
    """
    passed = {
        (gate.precision, gate.metric)
        for gate in manifest.gates
        if not gate.name.startswith(STRESSED)
    }
    for precision in dict.fromkeys(graph.precision for graph in manifest.graphs):
        if precision == "f32":
            # Of each map and step the golden vectors are as strict as its gates.
            continue
        wanted = ("cosine", "lost" if precision in EIGHT_BITS else "rel_l2")
        missing = [name for name in wanted if (precision, name) not in passed]
        if missing:
            raise BundleError(
                f"{what}: gates: expected {' and '.join(wanted)} of the trained graphs "
                f"in {precision}, found no {' and no '.join(missing)}. Export the "
                "bundle again."
            )


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON, the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
