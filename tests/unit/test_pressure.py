"""Pressure is what the kernel says, and nothing where it says nothing."""

import pytest

from bci_bridge.examination import read_pressure
from bci_bridge.pressure import pressure_from

TEXT = (
    "some avg10=43.01 avg60=14.83 avg300=9.53 total=7163537247\n"
    "full avg10=0.56 avg60=0.00 avg300=0.00 total=120\n"
)


def test_both_kinds_are_read():
    assert pressure_from("io", TEXT) == {("io", "some"): 43.01, ("io", "full"): 0.56}


def test_of_the_processor_the_kernels_meaningless_line_is_left_out():
    assert pressure_from("cpu", TEXT) == {("cpu", "some"): 43.01}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "some\n",
        "some avg60=1.00\n",
        "some avg10=x\n",
        "some avg10=nan\n",
        "some avg10=-1.00\n",
        "others avg10=1.00\n",
    ],
)
def test_what_cannot_be_read_is_absent_and_not_0(text):
    assert pressure_from("memory", text) == {}


def test_a_machine_that_tells_less_has_less(tmp_path):
    (tmp_path / "memory").write_text(TEXT)
    (tmp_path / "io").write_bytes(b"\xff")

    assert read_pressure(tmp_path) == {
        ("memory", "some"): 43.01,
        ("memory", "full"): 0.56,
    }
    assert read_pressure(tmp_path / "nothing") == {}
