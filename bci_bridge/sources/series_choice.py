"""Which series is the functional one: told from what a console writes about it.

Pure. A console sends much else to the same place: localisers, the single-band reference
of a multiband scan, physiological logs, phase images, and its own motion-corrected copy
of the very series that is decoded.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from bci_bridge.sources.dicom_elements import ENHANCED_MR_IMAGE, MR_IMAGE
from runtime.errors import UsageError

MAPS: Final = frozenset(
    {"ADC", "DIFFUSION", "FA", "PERFUSION", "SUBTRACTION", "T-MAP", "TRACEW", "GLM"}
)
"""Values of ImageType that name what was computed from images."""


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What an image says about its series, without identity."""

    key: str
    """Tells series apart; made of the series' number and a hash of its identifier."""
    number: int | None = None
    description: str = ""
    sop_class: str = MR_IMAGE
    image_type: tuple[str, ...] = ()
    component: str = ""
    """ComplexImageComponent."""
    is_echo_planar: bool = True
    echo: int = 1
    comments: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the operator asked for.

    Raises:
        UsageError: The echo is no number from 1.
    """

    series: tuple[str, ...] = ()
    """Numbers, or patterns of the description such as ``task-*_bold``; empty: told from
    the images."""
    echo: int = 1

    def __post_init__(self) -> None:
        if self.echo < 1:
            raise UsageError(f"--echo: expected 1 or more, found {self.echo}")


def why_left_out(facts: SeriesFacts, choice: Choice) -> str | None:
    """Say why an image is none of the functional series; None where it is one.

    A series that was named may be anything that holds volumes: the scanner's
    motion-corrected copy, too, if that is what is wanted.
    """
    if facts.sop_class not in (MR_IMAGE, ENHANCED_MR_IMAGE):
        return "no MR images"
    kinds = {kind.upper() for kind in facts.image_type}
    if facts.component.upper() == "PHASE" or kinds & {"P", "PHASE"}:
        return "phase images; the magnitude is decoded"
    if facts.echo != choice.echo:
        return f"echo {facts.echo}; --echo {choice.echo} is decoded"
    if choice.series:
        is_named = any(_is_named(facts, name) for name in choice.series)
        return None if is_named else "not named by --series"
    return _why_not_functional(facts, kinds)


def _is_named(facts: SeriesFacts, name: str) -> bool:
    if name.isdecimal():
        return facts.number == int(name)
    return fnmatchcase(facts.description, name)


def _why_not_functional(facts: SeriesFacts, kinds: set[str]) -> str | None:
    description = facts.description.lower()
    remedy = f". Take it with --series {facts.number}"
    if "MOCO" in kinds or "moco" in description:
        return f"the scanner's motion-corrected copy{remedy}"
    if description.endswith("sbref") or "single-band ref" in facts.comments.lower():
        return f"a single-band reference{remedy}"
    if "PHYSIO" in kinds or "physio" in description:
        return "a physiological log"
    if "LOCALIZER" in kinds or any(
        word in description for word in ("localizer", "localiser", "scout")
    ):
        return f"a localiser{remedy}"
    if kinds & MAPS or "DERIVED" in kinds:
        return f"computed from other images{remedy}"
    if not facts.is_echo_planar:
        return f"no echo-planar images{remedy}"
    return None
