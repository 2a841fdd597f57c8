"""Head motion: how exactly it is found, how fast, and beside which others.

    OPENBLAS_NUM_THREADS=1 python benchmarks/motion.py --data ../shared/data \
        --out docs/motion.json [--parts PART ...] [--volumes 40] [--rounds 15]

One thread for everything. Heads of exact Gaussians (`motion_phantom.py`), slices
acquired one after another along a moving path; recorded Siemens mosaics. SimpleITK
beside ours in the same run; SPM's registration too where python-rtspm (GPL, in an
environment of its own) is installed. Times are the process's own processor time. A part
that is done is written to the JSON at once; the others stay as they are.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from motion_oracles import SimpleItk, Spm
from motion_phantom import Head, Scanner, acquired, head_of

from runtime.bench.machine import cpu_name
from runtime.preprocess.mask import VoxelMask
from runtime.preprocess.motion import MotionCorrection
from runtime.preprocess.motion_settings import Motion
from runtime.preprocess.reference import Reference
from runtime.preprocess.register import Grid, Registration
from runtime.preprocess.resample import VolumeReader
from runtime.preprocess.rigid import (
    centre_of,
    displacement_mm,
    matrix_from_pose,
    pose_from_matrix,
)

Array = np.ndarray
SCANNER = Scanner((74, 74, 36), (2.8, 2.8, 3.5))
LEVEL = 1000.0
MASK_VOXELS = 15_724
LARGE_MASK_VOXELS = 40_000
CENTRE_MM = np.zeros(3)
AXES = ("x_mm", "y_mm", "z_mm", "pitch_deg", "roll_deg", "yaw_deg")


class Ours:
    """The registration of `runtime.preprocess`, from the pose before."""

    name = "ours"

    def __init__(self, reference: Array, affine: Array) -> None:
        x, y, z = reference.shape
        grid = Grid((x, y, z), affine)
        image = reference.astype(np.float32)
        self._registration = Registration(image, grid, grid, fwhm_mm=Motion().fwhm_mm)
        everywhere = VoxelMask.from_volume(np.ones(grid.shape, dtype=np.bool_))
        self._reader = VolumeReader(grid, grid, everywhere, "cubic")
        self._matrix = np.eye(4)

    def align(self, volume: Array) -> Array:
        """Return the map from the reference's to the volume's millimetres."""
        self._volume = volume
        self._registration.load(volume)
        self._matrix = self._registration.align(self._matrix).matrix
        return self._matrix

    def resample(self) -> Array:
        """Return the last volume on the reference's grid."""
        read = self._reader.read(self._volume, self._matrix)
        return read.reshape(self._volume.shape)


def rivals(reference: Array, affine: Array, *, slow: bool = True) -> list[Any]:
    """Return ours and the others, each with the reference; slow ones where wanted."""
    made: list[Any] = [
        Ours(reference, affine),
        SimpleItk(reference, affine, share=0.15, steps=20, last_step=0.01),
    ]
    if slow:
        made.append(SimpleItk(reference, affine, share=0.15))
        made.append(SimpleItk(reference, affine, share=1.0, smooth_mm=5.0))
    try:
        made.append(Spm(reference, affine))
    except ImportError:
        print("python-rtspm is not installed: SPM is left out", file=sys.stderr)
    return made


def head_path(volumes: int, rng: np.random.Generator) -> Array:
    """Poses at the borders of volumes: drift, jitter and jerks as a person makes."""
    moved = np.zeros((volumes + 1, 6))
    shocks = rng.normal(0, 0.05, (volumes + 1, 6))
    for k in range(1, volumes + 1):
        moved[k] = 0.8 * moved[k - 1] + shocks[k]
    ramp = np.linspace(0, 1, volumes + 1)[:, None]
    moved += ramp * rng.normal(0, 0.6, 6)
    for start in rng.choice(np.arange(1, volumes), 3):
        decay = np.exp(-np.arange(volumes + 1 - start) / 3.0)[:, None]
        moved[start:] += (0.7 * decay + 0.3) * rng.normal(0, 0.35, 6)
    return moved


def session(
    head: Head, volumes: int, tsnr: float, seed: int
) -> tuple[Array, Array, Array]:
    """Return a reference volume, the volumes after it, and the mean pose of each."""
    rng = np.random.default_rng(seed)
    path, slices = head_path(volumes, rng), SCANNER.shape[2]
    still = acquired(head, SCANNER, np.eye(4))
    unit = LEVEL / np.percentile(still, 98)
    # What breathing and blood do everywhere at once, and the receiver's slow drift.
    places = np.linspace(-1, 1, SCANNER.shape[0])[:, None, None]
    noise_sd = LEVEL / tsnr

    def scanned(clean: Array, k: int) -> Array:
        shared = 1.0 + rng.normal(0, 0.002) + 0.002 * rng.normal() * places
        drift = 1.0 + 0.01 * k / volumes
        white = rng.normal(0, noise_sd, clean.shape)
        return np.rint(clean * unit * shared * drift + white).astype(np.int16)

    reference = scanned(still, 0)
    taken, truth = [], []
    for k in range(volumes):
        share = (np.arange(slices) / slices)[:, None]
        poses = path[k] + share * (path[k + 1] - path[k])
        maps = np.stack([matrix_from_pose(pose, CENTRE_MM) for pose in poses])
        taken.append(scanned(acquired(head, SCANNER, maps), k))
        truth.append(poses.mean(axis=0))
    return reference, np.stack(taken), np.stack(truth)


def accuracy(volumes: int) -> Iterator[dict[str, Any]]:
    """Errors of the six numbers at the ends of a realistic range of noise."""
    for tsnr, seed in ((50.0, 1), (115.0, 2)):
        head = head_of(np.random.default_rng(seed), 1500, (150.0, 185.0, 150.0))
        reference, taken, truth = session(head, volumes, tsnr, seed)
        moved = [displacement_mm(a, b) for a, b in itertools.pairwise(truth)]
        for rival in rivals(reference, SCANNER.affine):
            found = [
                pose_from_matrix(rival.align(volume), CENTRE_MM) for volume in taken
            ]
            error = np.array(found) - truth
            rms = np.sqrt((error**2).mean(axis=0))
            yield {
                "tsnr": tsnr,
                "volumes": volumes,
                "mean_displacement_mm": round(float(np.mean(moved)), 3),
                "by": rival.name,
                "rms": rounded(rms),
                "worst_mm": round(float(np.abs(error[:, :3]).max()), 3),
                "worst_deg": round(float(np.abs(error[:, 3:]).max()), 3),
            }


def interpolation(volumes: int = 12) -> Iterator[dict[str, Any]]:
    """What is left of motion in the voxels of a mask, whose head is known exactly."""
    head = head_of(np.random.default_rng(3), 1500, (150.0, 185.0, 150.0))
    still = acquired(head, SCANNER, np.eye(4))
    mask, grid = brightest(still, MASK_VOXELS), Grid(SCANNER.shape, SCANNER.affine)
    wanted = mask.select(still.astype(np.float32))
    rng, rows = np.random.default_rng(4), dict[str, list[Array]]()
    for _ in range(volumes):
        matrix = matrix_from_pose(rng.normal(0, 0.7, 6), CENTRE_MM)
        volume = acquired(head, SCANNER, matrix).astype(np.float32)
        rows.setdefault("none", []).append(mask.select(volume))
        for kind in ("linear", "cubic"):
            read = VolumeReader(grid, grid, mask, kind).read(volume, matrix)
            rows.setdefault(kind, []).append(read.copy())
    for kind, found in rows.items():
        error = (np.array(found) - wanted) / wanted
        yield {
            "interpolation": kind,
            "rms_percent": round(100 * float(np.sqrt((error**2).mean())), 3),
            "median_voxel_sd_percent": round(
                100 * float(np.median(error.std(axis=0))), 3
            ),
        }


def agreement(data: Path) -> Iterator[dict[str, Any]]:
    """Ours beside others on a recorded run, whose truth nobody knows."""
    volumes, affine = recorded(data / "siemens_mosaic_tr1000")
    centre = centre_of(affine, volumes.shape[1:])
    found = {}
    for rival in rivals(volumes[0], affine):
        found[rival.name] = np.array(
            [pose_from_matrix(rival.align(volume), centre) for volume in volumes[1:]]
        )
    ours = found.pop("ours")
    yield {"by": "ours", "standard_deviation": rounded(ours.std(axis=0))}
    for name, theirs in found.items():
        correlations = [np.corrcoef(ours[:, i], theirs[:, i])[0, 1] for i in range(6)]
        yield {
            "by": name,
            "correlation": rounded(np.array(correlations)),
            "rms_difference": rounded(np.sqrt(((ours - theirs) ** 2).mean(axis=0))),
            "sd_of_difference": rounded((ours - theirs).std(axis=0)),
        }


def speed(data: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of the processor a volume; every round, all get the same one."""
    head = head_of(np.random.default_rng(1), 1500, (150.0, 185.0, 150.0))
    reference, taken, _ = session(head, 8, 80.0, 1)
    yield from _timed(reference, taken, SCANNER.affine, MASK_VOXELS, rounds)
    volumes, affine = recorded(data / "siemens_multiband_tr800")
    yield from _timed(volumes[0], volumes[1:], affine, LARGE_MASK_VOXELS, rounds)


def _timed(
    reference: Array, taken: Array, affine: Array, voxels: int, rounds: int
) -> Iterator[dict[str, Any]]:
    x, y, z = reference.shape
    grid, mask = Grid((x, y, z), affine), brightest(reference, voxels)
    whole = Reference(reference.astype(np.float32), affine)
    correction = MotionCorrection(whole, grid, mask, Motion())
    out = np.empty(mask.voxels, dtype=np.float32)
    jobs: dict[str, Callable[[Array], Any]] = {
        f"ours, registered and {mask.voxels:,} voxels read": lambda volume: (
            correction.correct(volume, out)
        )
    }
    for rival in rivals(reference, affine, slow=False):
        jobs[f"{rival.name}, registered and the whole volume resampled"] = (
            lambda volume, rival=rival: (rival.align(volume), rival.resample())
        )
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 2):
        volume = taken[number % len(taken)]
        for name, job in jobs.items():
            # Its own processor time: what else runs on the machine is not in it.
            start = time.process_time()
            job(volume)
            if number >= 2:
                spent[name].append(1e3 * (time.process_time() - start))
    first = next(iter(jobs))
    for name, times in spent.items():
        ratio = np.array(spent[first]) / np.array(times)
        low, high = interval(ratio)
        yield {
            "size": [x, y, z],
            "by": name,
            "median_ms": round(statistics.median(times), 1),
            "worst_ms": round(max(times), 1),
            "ours_over_this": round(float(np.median(ratio)), 3),
            "interval_95": [round(low, 3), round(high, 3)],
        }


def repeats() -> dict[str, bool]:
    """Whether the same volumes give the same bits a second time."""
    head = head_of(np.random.default_rng(1), 600, (150.0, 185.0, 150.0))
    reference, taken, _ = session(head, 4, 80.0, 1)
    same = {}
    for one, other in zip(
        rivals(reference, SCANNER.affine),
        rivals(reference, SCANNER.affine),
        strict=True,
    ):
        bits = [[r.align(volume).tobytes() for volume in taken] for r in (one, other)]
        same[one.name] = bits[0] == bits[1]
    return same


def brightest(volume: Array, voxels: int) -> VoxelMask:
    """Return the mask of the brightest voxels of a volume's middle."""
    inner = np.zeros(volume.shape)
    middle = tuple(slice(n // 8, -(n // 8)) for n in volume.shape)
    inner[middle] = volume[middle]
    chosen = np.zeros(volume.size, dtype=np.bool_)
    chosen[np.argsort(inner, axis=None)[-voxels:]] = True
    return VoxelMask.from_volume(chosen.reshape(volume.shape))


def recorded(folder: Path) -> tuple[Array, Array]:
    """Read Siemens mosaics with nibabel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import wrapper_from_file

        mosaics = [wrapper_from_file(file) for file in sorted(folder.glob("*.dcm"))]
        volumes = np.stack([np.asarray(mosaic.get_data()) for mosaic in mosaics])
        lps = mosaics[0].affine
    return volumes.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def interval(values: Array) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a median."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (2000, values.size))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def rounded(numbers: Array) -> dict[str, float]:
    """Return the six numbers of a pose by name."""
    return {axis: round(float(n), 4) for axis, n in zip(AXES, numbers, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--volumes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=15)
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "repeats_bit_for_bit": lambda _: repeats(),
        "speed": lambda o: list(speed(o.data, o.rounds)),
        "interpolation": lambda _: list(interpolation()),
        "agreement": lambda o: list(agreement(o.data)),
        "accuracy": lambda o: list(accuracy(o.volumes)),
    }
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    options = parser.parse_args()
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["machine"] = {
        "processor": cpu_name(Path("/proc/cpuinfo").read_text()),
        "threads": 1,
        "python": platform.python_version(),
    }
    for name in options.parts:
        result[name] = parts[name](options)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: result[name] for name in options.parts}, indent=2))


if __name__ == "__main__":
    main()
