"""Products in blocks are the products."""

import numpy as np
import pytest

from runtime.products import combined, inner


@pytest.mark.parametrize(("m", "n", "size"), [(3, 4, 5), (20, 20, 3000), (600, 600, 2)])
def test_blocks_give_the_product(m, n, size):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, size)), rng.standard_normal((n, size))

    # A sum of `size` products of numbers near 1, in another order.
    np.testing.assert_allclose(inner(a, b), a @ b.T, atol=1e-12 * size)
    weights = rng.standard_normal((m, n))
    np.testing.assert_allclose(combined(weights, b), weights @ b, atol=1e-12 * n)


def test_blocks_of_float32_are_summed_in_float64():
    rows = np.full((64, 2**14), 0.1, np.float32)

    found = inner(rows, rows)

    # Within a block of 64 float32 errs by 64 roundings at most.
    wanted = 2**14 * float(np.float32(0.1)) ** 2
    np.testing.assert_allclose(found, wanted, rtol=64 * 2**-24)
