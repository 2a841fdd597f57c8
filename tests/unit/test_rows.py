"""A gallery's rows: searched in 8 bits they give what they give in float64."""

import gc
import re
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import rows
from runtime.buffers import READ_BYTES
from runtime.engines import openvino_rows
from runtime.engines.openvino_rows import EightBitRows
from runtime.errors import BackendError, ParityError, TensorMismatchError
from runtime.heads import Retrieval
from runtime.rows import (
    LEAST_BYTES,
    StandbyRows,
    WholeRows,
    are_in_8_bits,
    rows_by,
)

TOKENS, WIDTH = 64, 256


def latents(seed, items=7):
    """Latents whose first channels are three times the others, around a mean."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((items, TOKENS, WIDTH), dtype=np.float32)
    found[..., :3] *= 3
    return found + np.float32(2), np.full((TOKENS, WIDTH), 2, np.float32)


def head_of(gallery, mean, rows_of):
    names = [str(i) for i in range(len(gallery))]
    return Retrieval(gallery, names, names, mean=mean, temperature=0.1, rows_of=rows_of)


def oracle(gallery, mean, z_v):
    a = (gallery.astype(np.float64) - mean).reshape(len(gallery), -1)
    b = (z_v.astype(np.float64) - mean).ravel()
    return a @ b / (np.linalg.norm(a, axis=1) * np.linalg.norm(b))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_cosines_are_those_of_float64_at_any_length_of_the_query(seed, items, size):
    gallery, mean = latents(seed, items)
    noise = np.random.default_rng(seed).standard_normal((TOKENS, WIDTH))
    z_v = (mean + size * (gallery[0] - mean + noise)).astype(np.float32)
    wanted = oracle(gallery, mean, z_v)

    for opened, limit in (
        (EightBitRows(gallery, mean, threads=1), 1e-3),
        (WholeRows(gallery, mean), 2e-6),
    ):
        found = opened.cosines(z_v)
        assert (found.dtype, found.shape) == (np.float32, (items,))
        assert np.abs(found - wanted).max() < limit


def test_two_searches_of_one_latent_agree_to_the_bit_and_are_arrays_of_their_own():
    gallery, mean = latents(1)
    opened = EightBitRows(gallery, mean, threads=2)

    first = opened.cosines(gallery[2])
    kept = first.copy()
    opened.cosines(gallery[3])

    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(opened.cosines(gallery[2]), kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_latent_that_is_not_finite_finds_nothing(value):
    gallery, mean = latents(2)
    z_v = gallery[0].copy()
    z_v[3, 4] = value
    head = head_of(
        gallery, mean, lambda latents, mean: EightBitRows(latents, mean, threads=1)
    )

    assert not np.isfinite(head.cosines(z_v)).any()
    answer = head.answer(z_v)
    assert answer.decision == "ABSTAIN"
    assert answer.reason == "the latent is not finite"


@pytest.mark.parametrize("kind", [WholeRows, EightBitRows])
def test_what_has_no_length_has_cosine_0_with_everything(kind):
    how = {"threads": 1} if kind is EightBitRows else {}
    gallery, mean = latents(4)
    gallery[3] = mean

    opened = kind(gallery, mean, **how)

    assert opened.cosines(gallery[0])[3] == 0
    assert opened.cosines(gallery[0])[0] == pytest.approx(1, abs=2e-3)
    np.testing.assert_array_equal(opened.cosines(mean), np.zeros(len(gallery)))


def test_rows_that_are_wrong_are_not_believed(monkeypatch):
    gallery, mean = latents(5)
    rounded = openvino_rows._rounded

    def wrong(latents, mean):
        whole, scales, wanted = rounded(latents, mean)
        return whole, np.float32(1.015) * scales, wanted

    monkeypatch.setattr(openvino_rows, "_rounded", wrong)

    with pytest.raises(ParityError) as caught:
        EightBitRows(gallery, mean, threads=1)

    assert re.fullmatch(
        r"gallery: expected cosines in 8 bits within 0\.001 of float32, found "
        r"0\.01\d*",
        str(caught.value),
    )
    monkeypatch.setattr(rows, "LEAST_BYTES", gallery.nbytes)
    assert type(rows_by("openvino", "bf16", 1)(gallery, mean)) is WholeRows


def test_rows_go_when_nobody_has_them_any_more_and_keep_no_gallery():
    gallery, mean = latents(8)
    gallery = np.repeat(gallery, 1 + READ_BYTES // gallery[0].nbytes, axis=1)
    mean = np.repeat(mean, len(gallery[0]) // len(mean), axis=0)
    opened = EightBitRows(gallery, mean, threads=1)
    seen = weakref.ref(opened), weakref.ref(gallery)
    gc.collect()

    gc.disable()  # by themselves, and not when a collection finds them
    try:
        del gallery
        assert seen[1]() is None
        del opened
        assert seen[0]() is None
    finally:
        gc.enable()


def test_a_query_of_another_size_is_refused():
    gallery, mean = latents(9)
    opened = EightBitRows(gallery, mean, threads=1)

    with pytest.raises(TensorMismatchError, match=r"^z_v: expected float32 \[1, 16384"):
        opened.cosines(gallery[0, 1:])


def test_a_library_that_fails_is_said_in_one_line():
    gallery, mean = latents(6)
    opened = EightBitRows(gallery, mean, threads=1)

    class Failing:
        def infer(self):
            raise RuntimeError("lost\n  its way")

    opened._request = Failing()

    with pytest.raises(BackendError, match=r"^openvino: gallery: lost its way$"):
        opened.cosines(gallery[0])

    head = head_of(
        gallery, mean, lambda latents, mean: StandbyRows(opened, latents, mean)
    )
    assert head.troubles == ()
    answer = head.answer(gallery[4])
    assert (answer.decision, answer.label) == ("ANSWER", "4")
    assert head.troubles == ("openvino: gallery: lost its way; numpy searches instead",)
    np.testing.assert_array_equal(
        head.cosines(gallery[1]), WholeRows(gallery, mean).cosines(gallery[1])
    )


def test_8_bits_are_for_large_galleries_of_engines_that_round_anyway(monkeypatch):
    enough = LEAST_BYTES // 4

    assert are_in_8_bits("openvino", "bf16", enough)
    assert are_in_8_bits("openvino", "int8", enough)
    assert not are_in_8_bits("openvino", "bf16", enough - 1)
    assert not are_in_8_bits("openvino", "f32", enough)
    assert not are_in_8_bits("ort", "int8", enough)

    gallery, mean = latents(7)
    assert type(rows_by("openvino", "bf16", 1)(gallery, mean)) is WholeRows
    monkeypatch.setattr(rows, "LEAST_BYTES", gallery.nbytes)
    assert type(rows_by("openvino", "bf16", 1)(gallery, mean)) is StandbyRows
    assert type(rows_by("openvino", "f32", 1)(gallery, mean)) is WholeRows
