"""What a program hands over, refused in a line where it can be nothing of the kind.

A command line converts and checks what it is given; a call from Python is checked here.
"""

from runtime.arrays import is_number
from runtime.errors import UsageError


def check_abstain_below(abstain_below: float) -> None:
    """Refuse a limit that no confidence can be held against: below NaN is none.

    Raises:
        UsageError: It is no number from 0 to 1.
    """
    if not (is_number(abstain_below) and 0 <= abstain_below <= 1):
        raise UsageError(f"abstain_below: expected 0 to 1, found {abstain_below}")
