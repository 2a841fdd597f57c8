"""Cases: what lies in the folder is not what its manifest lists."""

import gzip
import io
import os
import pickle
import socket
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.sealed import WEIGHTS_MAGIC
from tests.faults.bundle_folder import (
    FILES,
    GRAPH,
    KINDS,
    MANIFESTS,
    WEIGHTS,
    Case,
    Change,
    Kind,
    edited,
    listed_beside,
    relisted,
    spec_of,
)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


FOREIGN: dict[str, bytes] = {
    **{f"pickle {n}": pickle.dumps({"w": [1] * 40}, protocol=n) for n in range(6)},
    "zip": _zip(),
    "ELF": b"\x7fELF" + bytes(80),
    "PE": b"MZ" + bytes(80),
    "Mach-O": b"\xcf\xfa\xed\xfe" + bytes(80),
    "gzip": gzip.compress(bytes(99), mtime=0),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(80),
    "npy": b"\x93NUMPY\x01\x00" + bytes(80),
    "script": b"#!/bin/sh\nexit 1\n" + bytes(80),
    "tar": b"x.txt".ljust(257, b"\0") + b"ustar\0" + bytes(80),
    "engine": b"ftrt" + bytes(80),
    "zeros": bytes(99),
}
"""Formats that run code, hide files or are simply others, by their first bytes."""


def _unlink(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name("other" + path.suffix))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _symlink(path: Path) -> None:
    aside = path.parents[2] / f"aside-{path.name}"
    path.rename(aside)
    path.symlink_to(aside)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _to_system(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _hard_link(path: Path) -> None:
    os.link(path, path.parents[2] / f"aside-{path.name}")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    # A path of a socket is short; the folder's own may not be.
    with socket.socket(socket.AF_UNIX) as one:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            one.bind(f"/proc/self/fd/{handle}/{path.name}")
        finally:
            os.close(handle)


def _device(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _flipped(at: float) -> Any:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[round(at * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return change


DAMAGE: dict[str, Any] = {
    "missing": _unlink, "renamed": _rename, "empty": _empty, "a byte short": _cut,
    "a byte long": _longer, "a symbolic link": _symlink,
    "a dangling link": _dangling, "a link to the system": _to_system,
    "a link to itself": _to_itself, "a hard link": _hard_link, "a pipe": _pipe,
    "a socket": _socket, "a device": _device, "a folder": _folder,
    "flipped at its beginning": _flipped(0), "flipped in the middle": _flipped(0.5),
    "flipped at its end": _flipped(1),
}  # fmt: skip

LIES: dict[str, dict[str, Any]] = {
    "a size one less": {"size": -1},
    "a size one more": {"size": 1},
    "a size below zero": {"size": -(10**6)},
    "a size beyond all": {"size": 10**15},
    "a hash of zeros": {"sha256": "0" * 64},
    "a short hash": {"sha256": "0" * 8},
    "no hash": {"sha256": ""},
}

EXTRAS: dict[str, bytes | None] = {
    "extra.onnx": b"\x08extra", ".hidden": b"", "module.py": b"print()",
    "library.so": b"\x7fELF", "empty": None, "deep/er/empty": None,
    "graphs/extra.weights": WEIGHTS_MAGIC, "manifest.json.bak": b"{}",
    "sub/manifest.json": b"{}", "sub/gallery.json": b"{}",
    "sub/overlay.json": b"{}",
}  # fmt: skip


def _in(path: str, damage: Any) -> Change:
    return lambda folder: damage(folder / path)


def _lying(kind: Kind, path: str, lie: dict[str, Any]) -> Change:
    def restate(said: dict[str, Any]) -> None:
        spec = spec_of(said, path)
        for key, value in lie.items():
            spec[key] = spec[key] + value if key == "size" else value

    return edited(kind, restate)


def _with_extra(path: str, data: bytes | None) -> Change:
    def apply(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)

    return apply


def _swapped(one: str, other: str) -> Change:
    def apply(folder: Path) -> None:
        first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
        (folder / one).write_bytes(second)
        (folder / other).write_bytes(first)

    return apply


def _swapped_and_relisted(folder: Path) -> None:
    graph, weights = (folder / GRAPH).read_bytes(), (folder / WEIGHTS).read_bytes()
    relisted("bundle", GRAPH, weights)(folder)
    relisted("bundle", WEIGHTS, graph)(folder)


def _linked_folder(path: str) -> Change:
    def apply(folder: Path) -> None:
        aside = folder.parent / "aside"
        (folder / path).rename(aside)
        (folder / path).symlink_to(aside)

    return apply


def _itself_linked(folder: Path) -> None:
    aside = folder.parent / "aside"
    folder.rename(aside)
    folder.symlink_to(aside)


def file_cases() -> Iterator[Case]:
    """Every damage of every file, and what else a folder can hold."""
    for kind in KINDS:
        for path in FILES[kind]:
            for what, damage in DAMAGE.items():
                yield Case(f"{kind}: {path} is {what}", kind, _in(path, damage))
            for what, lie in LIES.items():
                change = _lying(kind, path, lie)
                yield Case(f"{kind}: {path} is listed with {what}", kind, change)
            for what, data in FOREIGN.items():
                change = relisted(kind, path, data)
                yield Case(f"{kind}: {path} is {what}, hash right", kind, change)
        name = MANIFESTS[kind]
        for what, damage in DAMAGE.items():
            # A manifest's size and bits are its own: they name another bundle.
            if what.startswith(("missing", "renamed", "empty", "a ")):
                if what in ("a byte long", "a byte short"):
                    continue
                yield Case(f"{kind}: {name} is {what}", kind, _in(name, damage))
        for path, extra in EXTRAS.items():
            what = "folder" if extra is None else "file"
            change = _with_extra(path, extra)
            yield Case(f"{kind}: extra {what} {path}", kind, change)
        yield Case(f"{kind}: itself a link", kind, _itself_linked)
    for path in ("graphs", "golden"):
        yield Case(f"bundle: {path} is a link", "bundle", _linked_folder(path))
    for one, other in ((GRAPH, WEIGHTS), (FILES["bundle"][2], FILES["bundle"][3])):
        change = _swapped(one, other)
        yield Case(f"bundle: {one} and {other} swapped", "bundle", change)
    yield Case("bundle: swapped, hashes right", "bundle", _swapped_and_relisted)
    for path in ("module.py", "weights.pt", "graphs/x.plan", "x.pkl", "x.onnx.so"):
        change = listed_beside("bundle", path, b"\x08x" * 40)
        yield Case(f"bundle: {path} is listed and there", "bundle", change)
