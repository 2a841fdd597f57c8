"""Which runs a server takes: those that its bundle, gallery and mask fit.

Pure. The process that meets the peers has no decoder; this is what it knows of it.
"""

import msgspec

from bci_bridge.decoder import Decoder
from bci_bridge.messages import RunStart
from runtime.errors import PeerError


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What a decoder demands of a run."""

    bundle_sha256: str
    gallery_sha256: str
    shape: tuple[int, int, int]
    """Voxels along x, y and z."""
    takes_any_grid: bool = False
    """Whether another shape is taken where the run says its affine."""

    @classmethod
    def of(cls, decoder: Decoder) -> "Admission":
        """Ask a decoder."""
        return cls(
            bundle_sha256=decoder.bundle_sha256,
            gallery_sha256=decoder.gallery_sha256,
            shape=decoder.shape,
            takes_any_grid=decoder.takes_any_grid,
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
        is_placed = self.takes_any_grid and start.affine is not None
        if start.shape != self.shape and not is_placed:
            raise PeerError(
                "BAD_GEOMETRY",
                f"shape: expected {list(self.shape)} as the bundle's mask, "
                f"found {list(start.shape)}",
            )
