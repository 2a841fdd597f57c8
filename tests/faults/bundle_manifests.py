"""Cases: the manifest is not one, lists what no folder may have, or contradicts itself.

All of them are seen before any file of the folder is parsed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.bundle_folder import (
    MANIFESTS,
    Case,
    Change,
    Kind,
    edited,
    listed_beside,
    manifest_text,
)

DEEP = 100_000

TEXTS: dict[str, Any] = {
    "cut in half": lambda text: text[: len(text) // 2],
    "without its last brace": lambda text: text.rstrip()[:-1],
    "followed by more": lambda text: text + b"{}",
    "in UTF-16": lambda text: text.decode().encode("utf-16"),
    "after a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "with bytes that are no text": lambda text: text.replace(b'"', b'"\xff', 3),
    "with a comment": lambda text: b"// yes\n" + text,
    "in Python's words": lambda text: text.replace(b"true", b"True").replace(
        b"false", b"False"
    ).replace(b":", b"=", 1),
    "a list": lambda text: b"[" + text + b"]",
    "a string": lambda text: json.dumps(text.decode()).encode(),
    "null": lambda text: b"null",
    "zeros": lambda text: bytes(len(text)),
    "nested arrays": lambda text: b"[" * DEEP,
    "nested maps": lambda text: b'{"a":' * DEEP,
    "nested in a field": lambda text: text.replace(
        b'"files"', b'"a":' + b"[" * DEEP + b"]" * DEEP + b',"files"', 1
    ),
    "followed by 100 MB of spaces": None,
    "with a key twice": lambda text: _twice(text, b'"files"'),
    "with its version twice": lambda text: _twice(text, b'"schema_version"'),
    "with a nested key twice": lambda text: _twice(
        text, b'"tokens"' if b'"tokens"' in text else b'"measure"'
    ),
    "with a hash twice": lambda text: _twice(text, b'"sha256"'),
}  # fmt: skip

PATHS: dict[str, str] = {
    "absolute": "/etc/passwd.onnx", "up": "../x.onnx", "down and up": "a/../x.onnx",
    "far up": "a/../../../../x.onnx", "double slash": "a//x.onnx", "dot": "./x.onnx",
    "inner dot": "a/./x.onnx", "nothing": "", "a dot": ".", "two dots": "..",
    "backslash": "a\\x.onnx", "backslash up": "..\\x.onnx", "drive": "C:\\x.onnx",
    "drive, slashes": "C:/x.onnx", "share": "//host/x.onnx", "NUL": "x\0.onnx",
    "suffix behind NUL": "x.py\0.onnx", "last slash": "x.onnx/", "URL": "file:///x.onnx",
    "percent": "%2e%2e/x.onnx", "home": "~/x.onnx", "variable": "$HOME/x.onnx",
    "long": "x" * 300 + ".onnx", "very long": "x/" * 3000 + "x.onnx",
    "bidirectional": "x\u202exnno.so.onnx", "zero width": "graphs/enc\u200boder.onnx",
    "Cyrillic e": "graphs/\u0435ncoder.onnx", "full width dots": "\uff0e\uff0e/x.onnx",
    "one dot leaders": "\u2024\u2024/x.onnx", "division slash": "a\u2215x.onnx",
    "decomposed": "re\u0301sume\u0301.onnx", "composed": "r\u00e9sum\u00e9.onnx",
    "newline": "x\n.onnx", "escape": "x\x1b[2J.onnx", "space at its end": "x.onnx ",
    "space before": " x.onnx", "dot at its end": "x.onnx.", "stream": "x.onnx:y.onnx",
    "capital suffix": "x.ONNX", "the manifest": "manifest.json", "hidden": ".x.onnx",
    "an option": "-rf.onnx", "case of another": "graphs/Encoder.onnx",
    "case of a folder": "Graphs/encoder.onnx", "folder as file": "graphs",
}  # fmt: skip
"""Names that lead elsewhere, or do not look like what they are."""


def _twice(text: bytes, key: bytes) -> bytes:
    """Say a key again in the object that holds it, with the very same value."""
    at = text.find(key)
    if at < 0:
        raise ValueError(f"expected {key!r} in the manifest, found none")
    decoder = json.JSONDecoder()
    rest = text[at + len(key) :].decode()
    begin = rest.index(":") + 1
    begin += len(rest[begin:]) - len(rest[begin:].lstrip())
    _, end = decoder.raw_decode(rest, begin)
    pair = key + b":" + rest[begin:end].encode()
    return text[:at] + pair + b"," + text[at:]


def _swollen(kind: Kind) -> Change:
    def apply(folder: Path) -> None:
        with (folder / MANIFESTS[kind]).open("r+b") as file:
            file.truncate(100_000_000)  # a hole, so that it costs no memory

    return apply


def _text_cases(kind: Kind) -> Iterator[Case]:
    name = MANIFESTS[kind]
    for what, change in TEXTS.items():
        apply = _swollen(kind) if change is None else manifest_text(kind, change)
        yield Case(f"{kind}: {name} {what}", kind, apply)


def _objects(said: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every object of a manifest; of equal siblings the first."""
    if isinstance(said, dict):
        yield at
        for key, value in said.items():
            yield from _objects(value, (*at, key))
    elif isinstance(said, list) and said:
        yield from _objects(said[0], (*at, 0))


def _reached(said: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        said = said[step]
    return said


def _put(way: tuple[Any, ...], key: str, value: Any) -> Any:
    def change(said: dict[str, Any]) -> None:
        _reached(said, way)[key] = value

    return change


def _field_cases(kind: Kind, said: dict[str, Any]) -> Iterator[Case]:
    """Every field of every object: unknown, of another type, not there."""
    for way in _objects(said):
        place = ".".join(map(str, way)) or "top"
        change = edited(kind, _put(way, "no_such_field", 1))
        yield Case(f"{kind}: {place}: an unknown field", kind, change)
        for key, value in _reached(said, way).items():
            where = f"{kind}: {place}.{key}"
            wrongs: dict[str, Any] = {"an object": {"x": [None]}, "nested": [[[]]]}
            if not isinstance(value, bool):
                wrongs["true"] = True
            if not isinstance(value, str):
                wrongs["a string"] = "NaN"
            else:
                wrongs["a number"] = 1e308
            if isinstance(value, int | float) and not isinstance(value, bool):
                wrongs["a huge number"] = 10**400
            for what, wrong in wrongs.items():
                change = edited(kind, _put(way, key, wrong))
                yield Case(f"{where} is {what}", kind, change)
            if isinstance(value, int | float) and not isinstance(value, bool):
                change = edited(kind, _put(way, key, float("nan")))
                yield Case(f"{where} is NaN", kind, change)


def _without(key: str) -> Any:
    return lambda said: said.pop(key)


def _statement_cases(kind: Kind, said: dict[str, Any]) -> Iterator[Case]:
    """What is well formed and still not to be had."""
    for key in said:
        if key in ("schema_version", "confidence", "penalty"):
            continue  # these have defaults
        yield Case(f"{kind}: no {key}", kind, edited(kind, _without(key)))
    for version in (0, 2, -1, "1", 1.5, 10**30):
        change = edited(kind, _put((), "schema_version", version))
        yield Case(f"{kind}: schema version {version!r}", kind, change)
    for what, change in (
        ("lists nothing", _put((), "files", [])),
        ("lists a file twice", lambda said: said["files"].append(said["files"][0])),
        ("lists 100 000 files", lambda said: said["files"].extend(
            {"path": f"x{n}.onnx", "size": 0, "sha256": "0" * 64}
            for n in range(100_000 if kind == "gallery" else 3000)
        )),
        ("lists 17 TB", lambda said: said["files"].append(
            {"path": "x.onnx", "size": 17 * 10**12, "sha256": "0" * 64}
        )),
    ):  # fmt: skip
        yield Case(f"{kind}: {what}", kind, edited(kind, change))


def _path_cases() -> Iterator[Case]:
    def absent(path: str) -> Change:
        spec = {"path": path, "size": 1, "sha256": "0" * 64}
        return edited("bundle", lambda said: said["files"].append(spec))

    for what, path in PATHS.items():
        yield Case(f"bundle: lists a path: {what}", "bundle", absent(path))
        # The same name with a file behind it, where a file can have it.
        if _can_exist(path):
            change = listed_beside("bundle", path, b"\x08x" * 40)
            yield Case(f"bundle: has a path: {what}", "bundle", change)


def _can_exist(path: str) -> bool:
    parts = path.split("/")
    is_long = any(len(part.encode()) > 255 for part in parts) or len(path) > 500
    leads_out = path.startswith("/") or ".." in parts or parts[-1] in ("", ".")
    is_taken = path in ("graphs", "manifest.json")
    return not (is_long or leads_out or is_taken or "\0" in path)


def _contradictions() -> Iterator[Case]:
    for what, change in (
        ("another input kind", _put((), "input_kind", "volume")),
        ("a graph's file not listed", _put(("graphs", 0), "file", "graphs/no.onnx")),
        ("a graph's file above", _put(("graphs", 0), "file", "../x.onnx")),
        ("a graph's file absolute", _put(("graphs", 0), "file", "/x.onnx")),
        ("no voxels", _put(("voxels",), "count", 0)),
        ("a side of none", _put(("voxels",), "shape", [2, 0, 2])),
        ("two sides", _put(("voxels",), "shape", [2, 2])),
        ("a mask's hash in capitals", _put(("voxels",), "mask_sha256", "A" * 64)),
        ("an affine of three rows", _put(("voxels",), "affine", [[1, 0, 0]] * 3)),
        ("other units", _put(("voxels",), "units", "beta")),
        ("an object's dtype", _put(("tensors", 0), "dtype", "object")),
        ("a complex dtype", _put(("tensors", 0), "dtype", "complex64")),
        ("a negative side", _put(("tensors", 0), "shape", [2, -2])),
        ("a graph of int4", _put(("graphs", 0), "precision", "int4")),
        ("an opset of none", _put(("graphs", 0), "opset", 0)),
        ("no date", _put((), "created", "today")),
    ):
        yield Case(f"bundle: says {what}", "bundle", edited("bundle", change))


def manifest_cases(said: dict[Kind, dict[str, Any]]) -> Iterator[Case]:
    """Every case whose fault is in the manifest.

    Args:
        said: What the manifests of the sound folders say.
    """
    for kind, manifest in said.items():
        yield from _text_cases(kind)
        yield from _field_cases(kind, manifest)
        yield from _statement_cases(kind, manifest)
    yield from _path_cases()
    yield from _contradictions()
