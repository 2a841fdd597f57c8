"""What every test may rely on."""

import os

import hypothesis
import pytest
import torch
from jaxtyping import config as jaxtyping_config

from tests.made_once import FOLDER, new_folder

# How long an example takes is the machine's business: speed is measured by benchmarks.
hypothesis.settings.register_profile(
    "neuroflow",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("neuroflow")


def pytest_configure() -> None:
    """Share one folder among the workers, which inherit its name."""
    if FOLDER not in os.environ:
        new_folder()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Let what is marked ``unchecked`` run as users run it, its fixtures included.

    A check costs ten times what a small function does. Who reads a graph of thousands
    of nodes makes the same calls as the tests of one node, which are checked.
    """
    is_unchecked = item.get_closest_marker("unchecked") is not None
    jaxtyping_config.update("jaxtyping_disable", is_unchecked)
    try:
        return (yield)
    finally:
        jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _subnormal_numbers_exist():
    """Undo what inference libraries leave behind in the calling thread.

    Some of them switch the processor to flush subnormal numbers to zero, which breaks
    Hypothesis' floats in whatever test comes next.
    """
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
