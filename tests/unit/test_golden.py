"""Golden vectors that are not what they should be are one line, whoever wrote them."""

import numpy as np
import pytest

from runtime.errors import BundleError, ParityError
from runtime.golden import (
    BY_HINT,
    LIMITS,
    Limits,
    check_golden,
    limits_for,
    limits_of,
    map_verdicts,
    step_verdicts,
)

VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2) + 1


class Doubling:
    """One map, and a flow whose every step adds one."""

    def maps(self):
        return {"double": (lambda z: 2 * z, "z_n", "z_v")}

    def states(self, z, direction):
        return np.stack([z + 1, z + 2]).astype(np.float32)


def golden(**changed):
    found = {"z_n": VECTORS, "z_v": 2 * VECTORS} | changed
    return {name: array for name, array in found.items() if array is not None}


def test_each_map_is_judged_by_its_worst_sample():
    wrong = 2 * VECTORS
    wrong[1] *= np.float32(1.1)

    (verdict,) = map_verdicts(Doubling().maps(), golden(z_v=wrong))

    assert verdict.rel_l2 == pytest.approx(0.1 / 1.1, rel=1e-5)


def test_a_server_judges_by_the_first_sample_and_verify_by_all():
    wrong = 2 * VECTORS
    wrong[1] *= np.float32(1.1)
    arguments = golden(z_v=wrong), LIMITS["f32"], "any 1"

    check_golden(Doubling(), *arguments, samples=1)
    with pytest.raises(ParityError, match="golden double"):
        check_golden(Doubling(), *arguments)


def test_what_a_graph_says_has_its_gate_and_a_library_that_is_told_another():
    assert limits_of("bf16", "bf16") == LIMITS["bf16"]
    assert limits_of("f32", "f32") == LIMITS["f32"]
    assert limits_of("f32", "bf16") == BY_HINT


def test_each_map_is_held_to_limits_of_its_own():
    each = {"double": LIMITS["f32"], "decode_flow": LIMITS["int8"]}
    wrong = golden(z_v=np.float32(2.01) * VECTORS)

    check_golden(Doubling(), wrong, each | {"double": LIMITS["int8"]}, "any 1")
    with pytest.raises(
        ParityError, match=r"golden double .any 1.: expected relative L2"
    ):
        check_golden(Doubling(), wrong, each, "any 1")
    assert limits_for(each, "decode_flow.step_2") == LIMITS["int8"]
    assert limits_for(LIMITS["f16"], "decode_flow.step_2") == LIMITS["f16"]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"z_v": None}, "expected z_v, found z_n"),
        ({"z_n": np.array(1, np.float32)}, "expected z_n, found z_v"),
        ({"z_v": VECTORS[:2]}, "z_v: expected 3 samples as of z_n, found 2"),
    ],
)
def test_golden_vectors_that_lack_a_sample_are_named(changed, line):
    with pytest.raises(BundleError) as caught:
        check_golden(Doubling(), golden(**changed), LIMITS["f32"], "any 1")

    assert str(caught.value) == f"golden/golden.safetensors: {line}"


def latents(count, steps=None):
    rng = np.random.default_rng(0)
    shape = (count, 2, 3) if steps is None else (count, steps, 2, 3)
    return rng.normal(size=shape).astype(np.float32)


def test_the_flow_is_judged_after_each_step_of_either_direction():
    z = latents(2)
    right = np.stack([z[:1] + 1, z[:1] + 2], axis=1)
    wrong = np.stack([z[:1] + 1, z[:1] + 3], axis=1)
    vectors = golden(z_n=z, z_v=z, decode_states=right, encode_states=wrong)

    found = {v.name: v.rel_l2 for v in step_verdicts(Doubling(), vectors)}

    assert list(found) == [
        "decode_flow.step_1", "decode_flow.step_2",
        "encode_flow.step_1", "encode_flow.step_2",
    ]  # fmt: skip
    assert [error > 1e-6 for error in found.values()] == [False, False, False, True]


@pytest.mark.parametrize(
    ("states", "error", "line"),
    [
        (latents(1), BundleError, "states of samples of z_n, found shape [1, 2, 3]"),
        (latents(3, 2), BundleError, "states of samples of z_n, found shape [3, 2,"),
        (latents(1, 3), ParityError, "expected shape [1, 3, 2, 3], found [1, 2, 2, 3]"),
    ],
)
def test_states_of_something_else_are_refused(states, error, line):
    vectors = golden(z_n=latents(2), z_v=latents(2), decode_states=states)

    with pytest.raises(error) as caught:
        list(step_verdicts(Doubling(), vectors))

    assert line in str(caught.value)
    assert "decode_states: " in str(caught.value)


def test_limits_say_what_they_ask():
    assert str(LIMITS["f32"]) == "relative L2 error <= 1e-05"
    assert str(LIMITS["bf16"]) == "relative L2 error <= 0.01 and cosine >= 0.9995"
    assert str(Limits(cosine=0.5)) == "cosine >= 0.5"
