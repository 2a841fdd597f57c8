"""Which runs a server takes: those that its bundle, gallery and mask fit.

Pure. The process that meets the peers has no decoder; this is what it knows of it.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET

from bci_bridge.decoder import Decoder
from bci_bridge.messages import RunStart
from runtime.answers import LONGEST_RUN_S
from runtime.errors import PeerError

MOST_VOXELS: Final = 256**3
"""Of a volume on a grid of its own, which is smoothed and resampled whole."""
VOXEL_MM: Final = (0.01, 1000.0)
"""Shortest and longest side of a voxel that an affine may tell."""


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What a decoder demands of a run."""

    bundle_sha256: str
    gallery_sha256: str
    shape: tuple[int, int, int]
    """Voxels along x, y and z."""
    takes_any_grid: bool = False
    """Whether another shape is taken where the run says its affine."""
    confounds: tuple[str, ...] = ()
    """What has to come with each volume, by name."""

    @classmethod
    def of(cls, decoder: Decoder) -> "Admission":
        """Ask a decoder."""
        return cls(
            bundle_sha256=decoder.bundle_sha256,
            gallery_sha256=decoder.gallery_sha256,
            shape=decoder.shape,
            takes_any_grid=decoder.takes_any_grid,
            confounds=decoder.told_confounds,
        )

    def check(self, start: RunStart) -> None:
        """Refuse a run that cannot be decoded.

        Raises:
            PeerError: WRONG_BUNDLE or BAD_GEOMETRY.
        """
        for what, wanted, found in (
            ("bundle", start.bundle_sha256, self.bundle_sha256),
            ("gallery", start.gallery_sha256, self.gallery_sha256),
        ):
            if wanted is not None and wanted != found:
                raise PeerError(
                    "WRONG_BUNDLE", f"{what}: expected {wanted}, found {found}"
                )
        if start.confound_names is not UNSET:
            _check_told(start.confound_names, self.confounds)
        is_placed = self.takes_any_grid and start.affine is not None
        if start.shape != self.shape and not is_placed:
            raise PeerError(
                "BAD_GEOMETRY",
                f"shape: expected {list(self.shape)} as the bundle's mask, "
                f"found {list(start.shape)}",
            )
        lasts_s = start.expected_volumes * start.tr_s
        if lasts_s > LONGEST_RUN_S:
            raise PeerError(
                "BAD_GEOMETRY",
                f"expected_volumes: expected a run of at most {LONGEST_RUN_S:,.0f} s, "
                f"found {start.expected_volumes:,} volumes of {start.tr_s:g} s, "
                f"{lasts_s:,.0f} s",
            )
        if self.takes_any_grid and start.affine is not None:
            _check_grid(start.shape, start.affine)


def _check_told(told: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    lacking = [name for name in wanted if name not in told]
    if lacking:
        raise PeerError(
            "WRONG_BUNDLE",
            f"confounds: expected {_few(wanted)} with every volume, as the bundle "
            f"asks, found a sender that tells no {_few(lacking)}. Tell them (play "
            "--confounds), or serve a bundle that asks for none",
        )


def _few(names: Sequence[str]) -> str:
    """Name some of what may be too much for one detail."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check_grid(shape: tuple[int, int, int], affine: tuple[float, ...]) -> None:
    voxels = shape[0] * shape[1] * shape[2]
    if voxels > MOST_VOXELS:
        raise PeerError(
            "BAD_GEOMETRY",
            f"shape: expected at most {MOST_VOXELS:,} voxels, found {voxels:,}",
        )
    rows = [affine[at : at + 4] for at in range(0, 16, 4)]
    x, y, z = ([rows[row][column] for row in range(3)] for column in range(3))
    across = (
        y[1] * z[2] - y[2] * z[1],
        y[2] * z[0] - y[0] * z[2],
        y[0] * z[1] - y[1] * z[0],
    )
    sides = [math.hypot(*axis) for axis in (x, y, z)]
    # Of the axes' directions: 1 at right angles, 0 where they lie in a plane.
    spanned = abs(sum(a * b for a, b in zip(x, across, strict=True)))
    is_flat = not spanned > 1e-3 * math.prod(sides)
    is_sized = all(VOXEL_MM[0] <= side <= VOXEL_MM[1] for side in sides)
    if rows[3] != (0.0, 0.0, 0.0, 1.0) or is_flat or not is_sized:
        raise PeerError(
            "BAD_GEOMETRY",
            "affine: expected three axes in millimetres that span space, and 0 0 0 1 "
            f"in the last row, found {[list(row) for row in rows]}",
        )
