"""What a process that goes on from a log takes from it."""

import pytest

from bci_bridge.ledger import Heard, Ledger
from bci_bridge.places import INPUTS, Places
from bci_bridge.recovery import spilt_runs


@pytest.mark.parametrize(
    ("in_memory", "unsafe"),
    [
        ([], set()),
        ([1], set()),
        ([4], {"run-1"}),
        # The end of one run and the beginning of the next may share a segment.
        ([5], {"run-1", "run-2"}),
        ([9], {"run-3"}),
        ([3, 9], {"run-1", "run-3"}),
    ],
)
def test_runs_are_unsafe_of_which_memory_holds_a_segment(tmp_path, in_memory, unsafe):
    places = Places(tmp_path / "recording", tmp_path / "moment")
    spill = places.spill(INPUTS)
    spill.mkdir(parents=True)
    for number in in_memory:
        (spill / f"{number:06}.mcap").touch()
    ledger = Ledger()
    begun = {"run-1": 3, "run-2": 5, "run-3": 7}
    ledger.before = [Heard(name, segment) for name, segment in begun.items()]

    assert spilt_runs(places, INPUTS, ledger) == unsafe
