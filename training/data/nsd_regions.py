"""The Natural Scenes Dataset's own volumes of regions, and what their labels mean."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from training.data.regions import LabelVolume

COLLECTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "prf-visualrois": ("V1", "V1", "V2", "V2", "V3", "V3", "hV4"),
        "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
        "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
        "floc-places": ("OPA", "PPA", "RSC"),
        "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
        "streams": (
            "early",
            "midventral",
            "midlateral",
            "midparietal",
            "ventral",
            "lateral",
            "parietal",
        ),
    }
)
"""The names of labels from 1 on (the dataset's manual, "ROIs"). Ventral and dorsal V1,
V2 and V3 are taken together."""


def nsd_volumes(folder: Path) -> dict[str, LabelVolume]:
    """Return the volumes of a participant's folder, ``.../func1pt8mm/roi``, by name."""
    return {
        name: LabelVolume(
            folder / f"{name}.nii.gz", name, dict(enumerate(names, start=1))
        )
        for name, names in COLLECTIONS.items()
    }
