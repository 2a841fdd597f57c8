"""A machine says what it is, and nothing that it does not know."""

import numpy as np
import openvino
import pytest

from runtime.bench.limits import (
    Memory,
    best,
    block_products,
    flop,
    numpy_products,
    openvino_products,
)
from runtime.bench.machine import (
    clock_mhz,
    cpu_name,
    cpu_times,
    memory_field,
    size_bytes,
    steal_share,
)
from runtime.errors import ArtifactError, BackendError
from tests.unit.test_bench_work import PAPER
from verbs.rig import instruction_sets

CPUINFO = """processor\t: 0
model name\t: A Processor 9000
cpu MHz\t\t: 2000.000
flags\t\t: fpu sse sse4_2 avx avx2 fma amx_bf16 smep
processor\t: 1
model name\t: A Processor 9000
cpu MHz\t\t: 3000.000
"""

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_a_processor_is_read_from_its_description():
    assert cpu_name(CPUINFO) == "A Processor 9000"
    assert clock_mhz(CPUINFO) == 2500
    assert instruction_sets(CPUINFO) == (
        "amx_bf16", "avx", "avx2", "fma", "sse", "sse4_2",
    )  # fmt: skip


def test_what_a_description_lacks_is_not_made_up():
    assert cpu_name("") == "unknown"
    assert (clock_mhz(""), instruction_sets("")) == (None, ())
    assert memory_field("MemTotal: 8 kB\n", "MemFree") is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("32768K", 32 * 1024**2), ("8 kB", 8192), ("1M", 1024**2), ("7", 7), ("x", None)],
)
def test_sizes_as_the_system_writes_them(text, size):
    assert size_bytes(text) == size


def test_steal_is_the_share_that_others_took():
    before = cpu_times("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    after = cpu_times("cpu  150 0 50 820 50 0 0 30 9 9\n")

    assert (before.total, before.idle, before.steal) == (1000, 850, 0)
    assert steal_share(before, after) == 0.3
    assert steal_share(after, after) is None


def test_another_text_is_refused():
    with pytest.raises(ArtifactError) as caught:
        cpu_times("intr 5 6\n")

    assert str(caught.value) == (
        "/proc/stat: expected cpu and 8 numbers, found 'intr 5 6'"
    )


def test_the_limit_is_that_of_the_fastest_way():
    now = 0

    def spend(ns):
        def call():
            nonlocal now
            now += ns

        return call

    def disturbed():
        nonlocal now
        now += next(fast)

    fast = iter([900, 300, 25, 80, 26])
    found = best({"slow": spend(100), "fast": disturbed}, 50.0, lambda: now)

    assert (found.by, found.per_s) == ("fast", 2e9)


def test_no_way_is_no_limit():
    with pytest.raises(BackendError):
        best({}, 1.0, lambda: 0)


def test_the_products_are_those_of_a_block():
    products = block_products(PAPER)

    assert flop(products) == 2 * 256 * 12 * 1664**2
    assert (256, 6656, 1664) in products


@pytest.mark.parametrize("are_convolutions", [False, True])
def test_both_libraries_do_the_products(are_convolutions):
    products = ((3, 8, 4), (2, 5, 6))

    by_numpy = numpy_products(products)()
    # Its buffers live as long as the call does.
    call = openvino_products(
        products, precision="f32", threads=1, are_convolutions=are_convolutions
    )
    by_openvino = call()

    assert [array.shape for array in by_numpy] == [(3, 4), (2, 6)]
    for one, other in zip(by_numpy, by_openvino, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_BF16, reason="not run: this processor has no bfloat16")
@pytest.mark.parametrize("are_convolutions", [False, True])
def test_in_bfloat16_the_products_are_the_same_but_for_rounding(are_convolutions):
    products = ((16, 64, 32), (16, 32, 8))

    by_numpy = numpy_products(products)()
    call = openvino_products(
        products, precision="bf16", threads=1, are_convolutions=are_convolutions
    )
    found = [array.view(np.uint16).astype(np.uint32) << 16 for array in call()]

    for one, other in zip(by_numpy, found, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other.view(np.float32), one, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_triad_moves_every_number(threads):
    memory = Memory(threads, bytes_each=4 * 100_003)

    assert memory.triad() == 12 * 100_003
    assert memory.read() == 4 * 100_003
    # Whole rows only.
    assert memory.gemv() == 4 * 4096 * (100_003 // 4096)
    np.testing.assert_array_equal(memory._product, np.full(24, 4096, np.float32))
    np.testing.assert_array_equal(memory._a, np.full(100_003, 7, np.float32))
    memory.close()


@pytest.mark.parametrize(
    ("gemv", "by", "moved"),
    [([9, 9, 9, 9, 9], "triad", 1000), ([9, 9, 2, 9, 9], "gemv", 2000)],
)
def test_bandwidth_is_bytes_over_time_by_the_fastest_way(gemv, by, moved):
    # The triad's, then reading's, then that of a matrix by a vector.
    times = [50, 12, 40, 40, 40, 4, 9, 9, 9, 9, *gemv]
    ticks = iter([tick for end in times for tick in (0, end)])
    memory = Memory(1, bytes_each=4000)

    found = memory.bandwidth(lambda: next(ticks))

    assert found.by == by
    assert found.per_s == pytest.approx(moved / 1e-9)
    memory.close()
