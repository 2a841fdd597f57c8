"""What every test may rely on."""

import hypothesis
import pytest
import torch

# How long an example takes is the machine's business: speed is measured by benchmarks.
hypothesis.settings.register_profile(
    "neuroflow",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("neuroflow")


@pytest.fixture(autouse=True)
def _subnormal_numbers_exist():
    """Undo what inference libraries leave behind in the calling thread.

    Some of them switch the processor to flush subnormal numbers to zero, which breaks
    Hypothesis' floats in whatever test comes next.
    """
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
