"""What every test may rely on."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _subnormal_numbers_exist():
    """Undo what inference libraries leave behind in the calling thread.

    Some of them switch the processor to flush subnormal numbers to zero, which breaks
    Hypothesis' floats in whatever test comes next.
    """
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
