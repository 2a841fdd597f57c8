"""The workers that faults serve with: a real model, a mean, and broken ones.

``python -m tests.faults.workers KIND ...``: the command to which a supervisor adds
setup file and name. A real model is exported once and kept under the temporary folder,
by the content of the code that makes it.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import msgspec

from bci_bridge.answering import Answering
from bci_bridge.segment import Logged
from bci_bridge.setup import Setup
from bci_bridge.worker import Worker
from bci_bridge.worker_part import run_worker
from tests.faults.jsonlog import JsonLog
from tests.integration.tiny import SHAPE, MeanDecoder

ROOT = Path(__file__).parents[2]
Input = Literal["beta", "volume"]
"""What a real model eats: the volume one answers every volume, the other trials."""


@dataclass(frozen=True)
class Served:
    """A worker's command and the volumes that it takes."""

    command: tuple[str, ...]
    shape: tuple[int, int, int]


def mean_worker(
    loads: Path, *, shape: tuple[int, int, int] = SHAPE, kind: str = "mean"
) -> Served:
    """A worker that does next to nothing, or one that is broken on purpose.

    Args:
        loads: Log of how long opening the decoder took.
        shape: Of the volumes.
        kind: ``mean``, ``forgetful``, ``leaking`` or ``slow``.
    """
    sizes = ",".join(map(str, shape))
    return Served(_command(kind, str(loads), sizes), shape)


def artifacts(input_kind: Input = "beta") -> tuple[Path, Path]:
    """Give bundle and gallery of the exported tiny model."""
    folder = _exported()
    return folder / input_kind, folder / "gallery"


def real_worker(
    loads: Path, *, kind: str = "real", input_kind: Input = "beta"
) -> Served:
    """A worker with the exported tiny model, one thread for each evaluation.

    Args:
        loads: Log of how long opening the decoder took.
        kind: ``real``, or broken on purpose: ``forgetful-real`` does not learn what is
            answered, ``amnesiac-real`` does not learn from what is.
        input_kind: What the model eats.
    """
    from verbs.rig import rig_here

    bundle, gallery = artifacts(input_kind)
    model = {
        "bundle": str(bundle),
        "gallery": str(gallery),
        "backend": "ort",
        "threads": 1,
        "abstain_below": 0.0,
        "trust": None,
        "rig": rig_here("ort", threads=1, abstain_below=0.0),
    }
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    encoded = msgspec.json.encode(model).decode()
    return Served(
        _command(kind, str(loads), encoded), tuple(manifest["voxels"]["shape"])
    )


def _command(kind: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.faults.workers", kind, *arguments)


def _exported() -> Path:
    digest = hashlib.sha256()
    for place in ("runtime", "training", "export", "tests/models.py", __file__):
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    name = f"neuroflow-faults-{os.getuid()}-{digest.hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    if not folder.exists():
        # In a process of its own: torch is large, and stays where it is loaded.
        subprocess.run(
            [sys.executable, "-m", "tests.faults.workers", "export", str(folder)],
            check=True,
            cwd=ROOT,
        )
    return folder


def _export(folder: Path) -> None:
    import numpy as np

    from runtime.estimator import VolumeEstimator
    from runtime.gallery import write_gallery
    from tests import models

    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    made.mkdir(mode=0o700)
    model = models.random_model()
    # Latents that no picture can be made of, as the tiny model's cannot.
    models.export(model, made / "beta", backbone=models.SYNTHETIC)
    each_volume = models.random_model(estimator=VolumeEstimator(warming_volumes=5))
    models.export(each_volume, made / "volume", backbone=models.SYNTHETIC)
    items, rng = 20, np.random.default_rng(3)
    write_gallery(
        made / "gallery",
        latents=rng.normal(size=(items, *model.latent_mean.shape)).astype(np.float32),
        ids=[f"picture-{n}" for n in range(items)],
        labels=[f"label-{n % 5}" for n in range(items)],
    )
    with contextlib.suppress(OSError):
        made.rename(folder)


def _forget(answering: Answering, logged: Logged) -> None:
    """A worker that counts what is on record, and does not learn what it says."""
    known: dict[str, Any] = answering._records
    for name in set(known):
        known[name].volumes.clear()
        known[name].trials.clear()
        known[name]._newest, known[name].has_ended = -1, False


def _forgetful() -> Any:
    sound = Answering.know

    def know(answering: Answering, logged: Logged) -> None:
        sound(answering, logged)
        _forget(answering, logged)

    return mock.patch.object(Answering, "know", know)


def _amnesiac() -> Any:
    """A worker whose decoder does not learn from volumes that are answered."""

    def follow(worker: Worker, answered: Any, action: object) -> list[Any]:
        worker._last_volume = answered.volume_index
        return []

    return mock.patch.object(Worker, "_follow", follow)


class _SlowDecoder(MeanDecoder):
    """Takes longer than its budget for one volume in two."""

    def add_volume(self, volume_index: int, *args: Any, **kwargs: Any) -> Any:
        if volume_index % 2:
            time.sleep(0.025)
        return super().add_volume(volume_index, *args, **kwargs)


class _LeakingDecoder(MeanDecoder):
    """Keeps 4 KiB of every volume."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self._kept: list[bytearray] = []

    def add_volume(self, *args: Any, **kwargs: Any) -> Any:
        self._kept.append(bytearray(b"x" * 4096))
        return super().add_volume(*args, **kwargs)


def _be_mean(kind: str, loads: str, sizes: str, setup_file: str, name: str) -> None:
    setup = msgspec.json.decode(Path(setup_file).read_bytes(), type=Setup)
    x, y, z = map(int, sizes.split(","))
    decoder = {"leaking": _LeakingDecoder, "slow": _SlowDecoder}.get(kind, MeanDecoder)
    JsonLog(Path(loads)).write("load", pid=os.getpid(), load_ms=0.0)
    with _forgetful() if kind == "forgetful" else contextlib.nullcontext():
        run_worker(setup, name, lambda _: decoder((x, y, z)))


def _be_real(kind: str, loads: str, *arguments: str) -> int:
    from verbs import worker

    opened = worker.open_decoder

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.monotonic()
        found = opened(*args, **kwargs)
        load_ms = (time.monotonic() - begin) * 1e3
        JsonLog(Path(loads)).write("load", pid=os.getpid(), load_ms=load_ms)
        return found

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(worker, "open_decoder", timed))
        if kind in BROKEN:
            stack.enter_context(BROKEN[kind]())
        return worker.main(list(arguments))


BROKEN = {"forgetful-real": _forgetful, "amnesiac-real": _amnesiac}


def main(kind: str, *arguments: str) -> int:
    if kind == "export":
        _export(Path(arguments[0]))
    elif kind == "real" or kind in BROKEN:
        return _be_real(kind, *arguments)
    else:
        _be_mean(kind, *arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
