"""A supervised server whose second attack on itself gets in."""

import sys
from unittest import mock

from bci_bridge import self_attack
from tests.integration import supervised

ROUND = self_attack.SelfAttack._round


def breached(self: self_attack.SelfAttack, number: int) -> None:
    """Hold once; then, at the inputs, find a stranger let in."""
    if number == 1 or self._targets[0][0] != self_attack.KNOCKABLE:
        ROUND(self, number)
    else:
        self._breach = "found an unknown key let in"


with (
    mock.patch.object(self_attack, "PERIOD_S", 2.0),
    mock.patch.object(self_attack.SelfAttack, "_round", breached),
):
    sys.exit(supervised.main())
