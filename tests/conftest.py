"""What every test may rely on."""

import os

import hypothesis
import pytest
import torch

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


@pytest.fixture(autouse=True)
def _subnormal_numbers_exist():
    """Undo what inference libraries leave behind in the calling thread.

    Some of them switch the processor to flush subnormal numbers to zero, which breaks
    Hypothesis' floats in whatever test comes next.
    """
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
