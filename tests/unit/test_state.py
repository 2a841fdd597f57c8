"""What a run's state gives away of itself, and to whom."""

import gc
import weakref

import pytest
import torch
from torch import nn

from training.ranks import OneProcess
from training.snapshot import RunIdentity
from training.state import Stage, TrainingState


class Sharded(OneProcess):
    """One of two processes; what it gathers is new, and watched until it dies."""

    count = 2
    is_sharded = True

    def __init__(self, index):
        super().__init__()
        self.index = index
        self.gathered, self.most = [], 0

    def whole(self, tensor):
        whole = tensor.clone()
        self.gathered.append(weakref.ref(whole))
        gc.collect()
        self.most = max(self.most, sum(one() is not None for one in self.gathered))
        return whole


def state_of(index):
    ranks = Sharded(index)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    stage = Stage(
        run=RunIdentity(stage="flow", config="", trials=""),
        steps=1,
        module=module,
        wrapped=module,
        parts=lambda *_: [],
        terms=(),
        seed=0,
        learning_rate=1e-3,
        weight_decay=0.0,
        ema_decay=0.9,
    )
    return TrainingState(stage, torch.device("cpu"), ranks), ranks


@pytest.fixture
def _few_to_look_through():
    """Collect from what the test makes alone: all that tests hold takes a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_few_to_look_through")
@pytest.mark.parametrize("what", ["tensors", "weights"])
def test_processes_that_write_nothing_hold_one_whole_tensor_at_a_time(what):
    other, ranks = state_of(1)
    main, _ = state_of(0)

    found = getattr(other, what)()
    written = getattr(main, what)()

    assert found == {}
    assert len(ranks.gathered) == len(written) >= 4
    # Every one is dead when the next is made.
    assert ranks.most == 1
    assert all(value.device.type == "cpu" for value in written.values())
