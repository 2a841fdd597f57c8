import numpy as np
import torch
from torch import nn

from training.ema import WeightAverage


def test_the_average_is_the_exponential_sum_of_the_weights_that_were():
    module = nn.Linear(3, 2)
    rng = np.random.default_rng(0)
    average = WeightAverage(module, decay=0.9)
    expected = module.weight.detach().numpy().astype(np.float64)

    for _ in range(20):
        weight = rng.standard_normal((2, 3))
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(weight))
        average.update(module)
        expected = 0.9 * expected + 0.1 * weight

    # 20 roundings of float32.
    np.testing.assert_allclose(average.weights["weight"], expected, atol=2e-6)


def test_the_average_is_float32_whatever_the_module_is():
    module = nn.Linear(3, 2).to(torch.bfloat16)

    average = WeightAverage(module, decay=0.5)
    average.update(module)

    assert {w.dtype for w in average.weights.values()} == {torch.float32}


def test_applying_the_average_leaves_the_module_alone():
    module = nn.Linear(3, 2)
    average = WeightAverage(module, decay=0.5)
    average.load({k: torch.full_like(v, 7) for k, v in average.weights.items()})
    before = module.weight.clone()

    averaged = average.apply_to_copy(module)

    assert bool((averaged.weight == 7).all())
    assert torch.equal(module.weight, before)
    with torch.no_grad():
        averaged.weight.zero_()
    assert bool((average.weights["weight"] == 7).all())


def test_the_average_starts_as_a_copy_and_not_as_the_weights_themselves():
    module = nn.Linear(3, 2)
    average = WeightAverage(module, decay=0.5)
    start = module.weight.detach().clone()

    with torch.no_grad():
        module.weight.zero_()

    assert torch.equal(average.weights["weight"], start)
