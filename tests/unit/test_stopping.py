"""When it is enough, what is kept, and what a resumed run still knows of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.stopping import Validation, Watch

LOSSES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def never(_weights):
    raise AssertionError


def watch(patience=3, every=5, steps=1000):
    validation = Validation(never, every, patience, images=2, trials=6)
    return Watch(validation, steps, {"w": torch.zeros(2)})


def judged(seen, losses):
    """Feed losses until it is over; return how many were taken."""
    for i, loss in enumerate(losses, start=1):
        weights = {"w": torch.full((2,), float(i))}
        is_better = loss < seen.best_loss
        seen.record(5 * i, loss, weights, is_better=is_better)
        if seen.is_over:
            return i
    return len(losses)


@given(LOSSES, st.integers(1, 6))
def test_the_first_lowest_loss_is_kept_and_patience_counts_from_it(losses, patience):
    seen = watch(patience)

    taken = judged(seen, losses)

    looked = losses[:taken]
    best = looked.index(min(looked))
    stopped = seen.stopped(5 * taken)
    assert stopped.best_step == 5 * (best + 1)
    assert stopped.loss == min(looked)
    assert torch.equal(seen.weights()["w"], torch.full((2,), best + 1.0))
    # It went on as long as it might, and no longer.
    assert taken - 1 - best <= patience
    assert (stopped.reason == "patience") is (taken - 1 - best == patience)
    assert (taken == len(losses)) or stopped.reason == "patience"


@given(LOSSES, st.data())
def test_a_watch_that_was_put_away_goes_on_as_if_it_had_not_been(losses, data):
    cut = data.draw(st.integers(0, len(losses)))
    whole, first, second = watch(), watch(), watch()

    taken = judged(whole, losses)
    before = judged(first, losses[:cut]) if cut else 0
    for name, value in first.tensors().items():
        second.tensors()[name].copy_(value)
    for i, loss in enumerate(losses[before:], start=before + 1):
        if second.is_over:
            break
        weights = {"w": torch.full((2,), float(i))}
        second.record(5 * i, loss, weights, is_better=loss < second.best_loss)

    one, two = whole.tensors(), second.tensors()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert whole.stopped(5 * taken) == second.stopped(5 * taken)


def test_each_epoch_and_the_last_step_are_judged_once():
    seen = watch(every=5, steps=12)

    due = []
    for step in range(13):
        for _ in range(2):
            if seen.is_due(step):
                due.append(step)
                seen.record(step, 1.0, {"w": torch.zeros(2)}, is_better=step == 5)

    assert due == [5, 10, 12]


@pytest.mark.parametrize("step", [0, 4, 6])
def test_within_an_epoch_nothing_is_due(step):
    assert not watch().is_due(step)


def test_what_is_kept_is_a_copy():
    seen, weights = watch(), {"w": torch.ones(2)}
    seen.record(5, 1.0, weights, is_better=True)

    weights["w"].zero_()

    assert torch.equal(seen.weights()["w"], torch.ones(2))
