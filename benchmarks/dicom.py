"""How long a mosaic file takes to become a volume, beside nibabel's reader.

    python benchmarks/dicom.py [../shared/data] [--rounds 60] [--out docs/dicom.json]

Ours: file to voxels in RAS+, affine, slice times and series. nibabel's: file to voxels
and affine as the file has them (`wrapper_from_file`, `get_data`, `affine`). Both read
the same files in turns, from the page cache, on one thread; a round is one of each for
every file. Times are of the thread on its processor, and of the wall.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from bci_bridge.sources.dicom_receiver import DicomReceiver
from bci_bridge.sources.series_choice import Choice
from runtime.bench.statistics import median_interval, ratio
from verbs.demo.summary import machine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nibabel.nicom.dicomwrappers import wrapper_from_file

FOLDERS = ("siemens_mosaic_tr1000", "siemens_multiband_tr800")


def by_us(file: Path) -> None:
    receiver = DicomReceiver(Choice(), b"salt")
    (volume,) = receiver.take(file.read_bytes(), file.name, 0.0)
    if not volume.voxels.size:
        raise RuntimeError("no voxels")


def by_nibabel(file: Path) -> None:
    wrapper = wrapper_from_file(file)
    if not wrapper.get_data().size or wrapper.affine.shape != (4, 4):
        raise RuntimeError("no voxels")


def timed(read: Callable[[Path], None], files: list[Path]) -> tuple[float, float]:
    """Return milliseconds a file: on the processor, and of the wall."""
    thread_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
    for file in files:
        read(file)
    thread_ns = time.thread_time_ns() - thread_ns
    wall_ns = time.perf_counter_ns() - wall_ns
    return thread_ns / 1e6 / len(files), wall_ns / 1e6 / len(files)


def compared(folder: Path, rounds: int) -> dict[str, object]:
    files = sorted(folder.iterdir())
    readers = {"ours": by_us, "nibabel": by_nibabel}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for turn in range(rounds + 2):
        for name in sorted(readers, reverse=turn % 2 == 0):
            found = timed(readers[name], files)
            if turn >= 2:
                times[name].append(found)
    result: dict[str, object] = {"files": len(files)}
    for index, clock in enumerate(("processor", "wall")):
        ours, theirs = ([pair[index] for pair in times[n]] for n in readers)
        result[clock] = {
            "ours_ms": _rounded(median_interval(ours)),
            "nibabel_ms": _rounded(median_interval(theirs)),
            "ratio": _rounded(ratio(ours, theirs)),
        }
    return result


def _rounded(interval: object) -> dict[str, float | None]:
    return {
        name: None
        if getattr(interval, name) is None
        else round(getattr(interval, name), 3)
        for name in ("median", "low", "high")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = {
        "command": f"python benchmarks/dicom.py --rounds {given.rounds}",
        "machine": machine(),
        "rounds": given.rounds,
        **{name: compared(given.data / name, given.rounds) for name in FOLDERS},
    }
    text = json.dumps(result, indent=1) + "\n"
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
