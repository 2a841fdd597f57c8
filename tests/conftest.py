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
    """Hold the calls of fast tests against their annotations, and of no others.

    A check costs ten times what a small function does. Slow tests, their fixtures
    included, run the code as users do: they make the calls of fast ones, many times
    over. ``checked`` and ``unchecked`` mark what is to be otherwise.
    """

    def is_marked(name):
        return item.get_closest_marker(name) is not None

    is_checked = is_marked("checked") or not (
        is_marked("slow") or is_marked("unchecked")
    )
    jaxtyping_config.update("jaxtyping_disable", not is_checked)
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
