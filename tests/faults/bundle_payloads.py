"""Cases: files with the right size and hash that say what they must not.

A header that claims more bytes than there are is seen by the loader. What a graph says
is seen by our own reader of graphs, before an engine's is asked. All else here is a
matter for whoever parses tensors, and must still end in a typed error.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save

from runtime.gallery import GALLERY_TENSORS
from runtime.manifest import GOLDEN, TENSORS
from runtime.overlay import OVERLAY_TENSORS
from tests.faults.bundle_folder import (
    GRAPH,
    Case,
    Change,
    Kind,
    edited,
    relisted,
)

Header = dict[str, Any]


def _packed(header: bytes, data: bytes = b"", claim: int | None = None) -> bytes:
    size = len(header) if claim is None else claim
    return size.to_bytes(8, "little") + header + data


def _safetensors(header: Header, data: bytes) -> bytes:
    return _packed(json.dumps(header).encode(), data)


def _claims() -> dict[str, bytes]:
    """Headers that the loader refuses by their length or first byte alone."""
    small = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    text = small.encode()
    return {
        "claims 2**64 - 1": _packed(text, b"\0" * 4, 2**64 - 1),
        "claims 2**63": _packed(text, b"\0" * 4, 2**63),
        "claims 100 GB": _packed(text, b"\0" * 4, 10**11),
        "claims a byte too many": _packed(text, b"", len(text) + 1),
        "is a length alone": b"\x08" + bytes(7),
        "is seven bytes": bytes(7),
        "has a list for a header": _packed(b"[]" + b" " * 30),
        "has spaces before its header": _packed(b"  " + text, b"\0" * 4),
    }


def _malformed(header: Header, data: bytes) -> dict[str, bytes]:
    """Headers that only a parser of safetensors can find fault with."""
    name = next(iter(header))
    spec = header[name]

    def with_spec(**changes: Any) -> bytes:
        return _safetensors({**header, name: {**spec, **changes}}, data)

    text = json.dumps(header).encode()
    twice = text[:-1] + b"," + json.dumps({name: spec}).encode()[1:-1] + b"}"
    size = len(data)
    return {
        "has no end of its header": _packed(text[:-1], data),
        "has a header of rubbish": _packed(b"{" + b"\xff" * 40, data),
        "is deeply nested": _packed(b'{"a":' * 20_000, data),
        "is cut": _safetensors(header, data[:-1]),
        "is longer than it says": _safetensors(header, data + b"\0"),
        "has no data": _safetensors(header, b""),
        "has offsets beyond": with_spec(data_offsets=[0, size + 10**6]),
        "has offsets of 2**62": with_spec(data_offsets=[0, 2**62]),
        "has offsets backwards": with_spec(data_offsets=[8, 0]),
        "has negative offsets": with_spec(data_offsets=[-8, 0]),
        "has a negative side": with_spec(shape=[-1, -2]),
        "has sides beyond count": with_spec(shape=[2**40, 2**40]),
        "has sides of other bytes": with_spec(shape=[999]),
        "has an unknown dtype": with_spec(dtype="OBJECT"),
        "has bfloat16": with_spec(dtype="BF16"),
        "has float8": with_spec(dtype="F8_E4M3"),
        "has no dtype": _safetensors(
            {**header, name: {k: v for k, v in spec.items() if k != "dtype"}}, data
        ),
        "has a number for a tensor": _safetensors({**header, name: 1}, data),
        "has a tensor twice": _packed(twice, data),
        "has a tensor less": _safetensors(
            {k: v for k, v in header.items() if k != name}, data
        ),
        "has another name": _safetensors(
            {("x" if k == name else k): v for k, v in header.items()}, data
        ),
        "has an empty tensor more": _safetensors(
            {**header, "x": {"dtype": "F32", "shape": [0], "data_offsets": [size] * 2}},
            data,
        ),
        "has no tensor": _safetensors({}, b""),
        "has other metadata than text": _safetensors(
            {"__metadata__": {"a": [1]}, **header}, data
        ),
    }


def _parsed_by_hand(folder: Path, path: str) -> tuple[Header, bytes]:
    raw = (folder / path).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header: Header = json.loads(raw[8:end])
    return header, raw[end:]


def _tensor_cases(bases: dict[Kind, Path]) -> Iterator[Case]:
    places: tuple[tuple[Kind, str], ...] = (
        ("bundle", TENSORS), ("bundle", GOLDEN), ("gallery", GALLERY_TENSORS),
        ("overlay", OVERLAY_TENSORS),
    )  # fmt: skip
    for kind, path in places:
        for what, data in _claims().items():
            yield Case(f"{kind}: {path} {what}", kind, relisted(kind, path, data))
        for what, data in _malformed(*_parsed_by_hand(bases[kind], path)).items():
            change = relisted(kind, path, data)
            yield Case(f"{kind}: {path} {what}", kind, change, "parser")


def _stated(kind: Kind, change: Any, what: str) -> Case:
    return Case(f"{kind}: says {what}", kind, edited(kind, change), "parser")


def _mismatch_cases() -> Iterator[Case]:
    """Well formed all through, but file and manifest are of different models."""
    for number in range(4):
        for key, value in (("name", "x"), ("shape", [7]), ("dtype", "int64")):

            def change(
                said: Any, n: int = number, k: str = key, v: Any = value
            ) -> None:
                said["tensors"][n][k] = v

            yield _stated("bundle", change, f"tensor {number} has {key} {value}")
    for what, key, value in (
        ("3 voxels", "count", 3),
        ("a volume of 2 x 2 x 3", "shape", [2, 2, 3]),
        ("another mask", "mask_sha256", "0" * 64),
        ("another voxel order", "voxel_order_sha256", "0" * 64),
    ):

        def restate(said: Any, k: str = key, v: Any = value) -> None:
            said["voxels"][k] = v

        yield _stated("bundle", restate, what)
    yield _stated("bundle", lambda s: s["latent"].update(tokens=9), "9 tokens")
    yield _stated("bundle", lambda s: s["latent"].update(width=9), "a width of 9")
    yield _stated("bundle", lambda s: s["golden"][0].update(name="x"), "other golden")
    yield _stated("bundle", lambda s: s["tensors"].clear(), "no tensors")
    yield _stated("gallery", lambda s: s["latent"].update(tokens=9), "9 tokens")
    yield _stated("gallery", lambda s: s.update(ids=["a", "a"]), "an id twice")
    yield _stated("gallery", lambda s: s.update(ids=[], labels=[]), "no items")
    yield _stated("gallery", lambda s: s.update(labels=["cat"]), "a label less")
    yield _stated("gallery", lambda s: s["ids"].append("c"), "an item more")
    others: tuple[tuple[str, str, Any], ...] = (
        ("another bundle", "bundle_sha256", "0" * 64),
        ("another estimator", "estimator_sha256", "0" * 64),
        ("3 voxels", "voxels", 3),
        ("no correction", "holds", ["normalisation"]),
    )
    for what, field, other in others:

        def foreign(said: Any, k: str = field, v: Any = other) -> None:
            said[k] = v

        yield _stated("overlay", foreign, what)
    yield _stated("overlay", lambda s: s["tensors"].clear(), "no tensors")


def _number_cases(folder: Path) -> Iterator[Case]:
    """An overlay's numbers that no day can have."""
    tensors = load_file(folder / OVERLAY_TENSORS)
    for what, name, value in (
        ("a mean that is none", "voxel_mean", np.nan),
        ("an endless scale", "voxel_scale", np.inf),
        ("a negative scale", "voxel_scale", -1.0),
        ("a correction that is none", "correction_reads", np.nan),
    ):
        changed = tensors[name].copy()
        changed.flat[0] = value
        data = save({**tensors, name: changed})
        change = relisted("overlay", OVERLAY_TENSORS, data)
        yield Case(f"overlay: has {what}", "overlay", change, "parser")


def _model(**changes: Any) -> onnx.ModelProto:
    """A graph that is what the manifest says: voxels [1, 2] to z_n [1, 3, 4]."""
    given: dict[str, Any] = {
        "op": "MatMul", "domain": "", "opset": 20, "inputs": [1, 2], "input": "voxels",
        "output": "z_n", "outputs": [1, 3, 4],
    }  # fmt: skip
    given |= changes
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2, 12], [0.5] * 24)
    shape = helper.make_tensor("s", TensorProto.INT64, [3], given["outputs"])
    nodes = [
        helper.make_node(
            given["op"], [given["input"], "w"], ["y"], domain=given["domain"]
        ),
        helper.make_node("Reshape", ["y", "s"], [given["output"]]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
        for name, sides in (
            (given["input"], given["inputs"]), (given["output"], given["outputs"]),
        )
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weights, shape])
    opsets = [helper.make_opsetid("", given["opset"])]
    if given["domain"]:
        opsets.append(helper.make_opsetid(given["domain"], 1))
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 9
    return model


def _external(**stated: str) -> bytes:
    model = _model()
    weights = model.graph.initializer[0]
    weights.ClearField("float_data")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in stated.items():
        weights.external_data.add(key=key, value=value)
    data: bytes = model.SerializeToString()
    return data


def sound_graph() -> bytes:
    """A real graph of the base bundle's ports, for the control."""
    data: bytes = _model().SerializeToString()
    return data


def _graph_cases() -> Iterator[Case]:
    whole = sound_graph()
    here = "flow.weights"
    graphs = {
        "is rubbish": b"\x08\x09" + hashlib.sha256(b"x").digest() * 9,
        "is cut in half": whole[: len(whole) // 2],
        "is cut by a byte": whole[:-1],
        "is a version alone": b"\x08\x09\x12\x00",
        "claims 2**32 bytes": b"\x08\x09\x3a\xff\xff\xff\xff\x0f",
        "has an operator of others": _model(
            op="Evil", domain="x.y"
        ).SerializeToString(),
        "has an unknown operator": _model(op="Evil").SerializeToString(),
        "has an opset of the future": _model(opset=9999).SerializeToString(),
        "has other inputs": _model(inputs=[1, 5]).SerializeToString(),
        "has another input's name": _model(input="x").SerializeToString(),
        "has another output's name": _model(output="x").SerializeToString(),
        "has other outputs": _model(outputs=[1, 4, 3]).SerializeToString(),
        "has weights above": _external(location="../../../etc/hostname"),
        "has weights of the system": _external(location="/etc/hostname"),
        "has weights nowhere": _external(location="no.weights"),
        "has weights without a place": _external(),
        "has weights beyond the file": _external(location=here, offset="1000000"),
        "has weights before the file": _external(location=here, offset="-64"),
        "has weights of 2**62": _external(location=here, length=str(2**62)),
        "has weights of no number": _external(location=here, offset="x"),
        "has weights in a folder": _external(location="."),
    }
    for what, data in graphs.items():
        change: Change = relisted("bundle", GRAPH, data)
        name = f"bundle: {GRAPH} {what}"
        yield Case(name, "bundle", change, "guard", needs_engine=True)


def payload_cases(bases: dict[Kind, Path]) -> Iterator[Case]:
    """Every case whose fault is inside a listed file, or between it and the manifest.

    Args:
        bases: The sound folders.
    """
    yield from _tensor_cases(bases)
    yield from _number_cases(bases["overlay"])
    yield from _mismatch_cases()
    yield from _graph_cases()
