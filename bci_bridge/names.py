"""Names that people give, refused with the characters that one may have. Pure."""

from typing import Any, Final, NamedTuple

import msgspec

from bci_bridge.header import Name, OptionalName
from bci_bridge.keyring import DeviceName
from runtime.errors import UsageError


class Kind(NamedTuple):
    """One kind of name: its type, and the same in words."""

    type: Any
    letters: str


RUN: Final = Kind(Name, "a letter or digit, then up to 127 letters, digits and ._+-")
BIDS: Final = Kind(OptionalName, "up to 128 letters, digits and ._+-")
DEVICE: Final = Kind(
    DeviceName, "a letter or digit, then up to 63 letters, digits, _ and -"
)


def require_name(what: str, text: str, kind: Kind = RUN) -> None:
    """Refuse what cannot be a name.

    Args:
        what: Who gives it, such as a flag.
        text: The name.
        kind: Which names there are.

    Raises:
        UsageError: It is none; says what one is made of.
    """
    try:
        msgspec.convert(text, kind.type)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{what}: expected {kind.letters}, found {text!r}. "
            "Put - in the place of others"
        ) from error
