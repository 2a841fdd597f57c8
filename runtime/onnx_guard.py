"""What stands between a graph's file and the library that will parse it.

A rig's engine libraries are large parsers in C++. They are given a file only after this
has read it and found in it what the manifest says, from the standard's operators alone,
with all its weights in the bundle.
"""

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from runtime.errors import BundleError, TensorMismatchError
from runtime.manifest import GraphSpec
from runtime.onnx_graph import OnnxGraph, read_onnx
from runtime.onnx_operators import OPERATORS
from runtime.onnx_tensor import Port

STANDARD: Final = ""


def check_file(path: Path, graph: GraphSpec) -> None:
    """Hold a graph's file against the manifest.

    Args:
        path: The file, in a bundle's private copy.
        graph: What the manifest says of it.

    Raises:
        BundleError: Not a flat ONNX graph of standard operators with its weights in the
            folder.
        TensorMismatchError: Its inputs or outputs differ from the manifest's.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BundleError(
            f"{graph.file}: expected a readable file, found {error.strerror}"
        ) from error
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            raise BundleError(f"{graph.file}: expected an ONNX graph, found no bytes")
        # Closed with its last view: an error's traceback may hold some for a while.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    found = read_onnx(data, graph.file)
    locations = {t.external.location for t in found.tensors() if t.external}
    check_graph(found, graph, file_sizes(path.parent, locations))


def file_sizes(folder: Path, names: set[str]) -> dict[str, int]:
    """Return the sizes of those of the named files that are plain files of a folder."""
    sizes: dict[str, int] = {}
    for name in names:
        # Joined to the folder, any other name could lead out of it.
        if not name or name in (".", "..") or "/" in name or "\\" in name:
            continue
        try:
            status = (folder / name).lstat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            sizes[name] = status.st_size
    return sizes


def check_graph(found: OnnxGraph, graph: GraphSpec, files: Mapping[str, int]) -> None:
    """Hold what a file says against the manifest; pure.

    Args:
        found: What the file says.
        graph: What the manifest says.
        files: Sizes of the plain files beside the graph, by name.

    Raises:
        BundleError: Another opset, an operator that is not the standard's, or weights
            elsewhere than in `files`.
        TensorMismatchError: Other inputs or outputs.
    """
    what = graph.file
    if found.opsets != {STANDARD: graph.opset}:
        listed = ", ".join(
            f"{domain or 'ai.onnx'} {version}"
            for domain, version in sorted(found.opsets.items())
        )
        raise BundleError(
            f"{what}: expected opset {graph.opset} of ai.onnx alone, "
            f"found {listed or 'none'}"
        )
    for node in found.nodes:
        if node.domain != STANDARD or node.operator not in OPERATORS:
            raise BundleError(
                f"{what}: expected operators of the ONNX standard on plain tensors, "
                f"found {node.domain or 'ai.onnx'}.{node.operator}"
            )
    for tensor in found.tensors():
        placed = tensor.external
        if placed is None:
            continue
        if placed.location not in files:
            raise BundleError(
                f"{what}: {tensor.name}: expected its bytes in a file beside the "
                f"graph, found {placed.location!r}"
            )
        size = files[placed.location]
        if placed.offset + placed.length > size:
            raise BundleError(
                f"{what}: {tensor.name}: expected its bytes within the {size} of "
                f"{placed.location}, found them to end at "
                f"{placed.offset + placed.length}"
            )
    _check_ports(what, "inputs", graph, found)
    _check_ports(what, "outputs", graph, found)


def _check_ports(what: str, words: str, graph: GraphSpec, found: OnnxGraph) -> None:
    specs = graph.inputs if words == "inputs" else graph.outputs
    ports = found.inputs if words == "inputs" else found.outputs
    wanted = {str(Port(s.name, s.dtype, tuple(s.shape))) for s in specs}
    if wanted != {str(port) for port in ports} or len(ports) != len(specs):
        raise TensorMismatchError(
            f"{what}: {words}",
            expected=", ".join(sorted(wanted)) or "none",
            found=", ".join(sorted(map(str, ports))) or "none",
        )
