"""Every field of an outcome is compared unless it is named as a time."""

import zlib

import numpy as np
import pytest
from msgspec import structs

from bci_bridge.arrays import bytes_from_arrays
from bci_bridge.difference import DISK, TIMES, differences
from bci_bridge.outcomes import RunEnded, ScoredStimulus, TrialOutcome, VolumeOutcome
from bci_bridge.wire import encode

COMMON = {"run": "run-1", "outcome_index": 3, "decided_ns": 1, "published_ns": 2}
OUTCOMES = (
    VolumeOutcome(**COMMON, volume_index=3, input="OK", timing="LIVE"),
    TrialOutcome(
        **COMMON, trial_id="t-1", decision="ANSWER", onset_s=0.0, delay_s=2.0,
        first_volume=0, last_volume=2, volumes_used=3, timing="LIVE", after_volume=2,
    ),
    RunEnded(**COMMON, count=3, aborted=False),
)  # fmt: skip
FIELDS = [(one, name) for one in OUTCOMES for name in one.__struct_fields__]
OTHER = {
    bool: True,
    int: 77,
    float: 0.125,
    str: "other",
    tuple: ("other",),
    dict: {"other": 1},
    type(None): 5,
}
CHOICES = {
    "input": "INVALID",
    "timing": "LATE",
    "decision": "ABSTAIN",
    "candidates": (ScoredStimulus(stimulus_id="s", label="l", cosine=0.5),),
}


def compared(one, other, payload=b"", other_payload=b""):
    listed = differences("run-1", encode(one, payload), encode(other, other_payload))
    return [difference.field for difference in listed]


def test_the_times_that_are_left_out_are_these():
    assert sorted(TIMES) == [
        "clock_offset_ns", "clock_uncertainty_ns", "decided_ns", "published_ns",
        "received_ns", "sent_ns", "stage_ns",
    ]  # fmt: skip


def test_every_time_that_is_left_out_exists():
    names = {name for one in OUTCOMES for name in one.__struct_fields__}

    assert names >= TIMES
    assert {name for name in names if name.endswith("_ns")} - TIMES == {
        "acquired_ns",
        "deadline_ns",
    }


@pytest.mark.parametrize(
    ("outcome", "name"),
    [pair for pair in FIELDS if pair[1] not in {"nbytes", "quality"}],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_change_of_any_field_but_a_time_is_named(outcome, name):
    value = CHOICES.get(name, OTHER[type(getattr(outcome, name))])

    changed = structs.replace(outcome, **{name: value})

    assert compared(outcome, changed) == ([] if name in TIMES else [name])


def test_a_measure_is_compared_where_the_record_has_it():
    none, one, changed, more = (
        structs.replace(OUTCOMES[0], quality=quality)
        for quality in ({}, {"a": 1.0}, {"a": 2.0}, {"a": 1.0, "b": 3.0})
    )

    assert compared(one, changed) == compared(one, none) == ["quality"]
    assert compared(one, more) == compared(none, more) == []


def test_zero_has_a_sign_and_nan_is_itself():
    plain, negative, nan = (
        structs.replace(OUTCOMES[0], quality={"mean": value})
        for value in (0.0, -0.0, float("nan"))
    )

    assert compared(plain, negative) == ["quality"]
    assert compared(nan, nan) == []


def test_the_state_of_the_disk_is_no_difference_any_other_reason_is():
    one, full, both = (
        structs.replace(OUTCOMES[0], degraded=reasons)
        for reasons in ((), (DISK,), ("TIME_ANOMALY", DISK))
    )

    assert compared(one, full) == []
    assert compared(full, both) == ["degraded"]


def test_one_bit_of_an_array_is_found_in_that_array():
    arrays = {"z_v": np.zeros((2, 3), np.float32), "image": np.zeros(4, np.uint8)}
    changed = {**arrays, "z_v": arrays["z_v"].copy()}
    changed["z_v"][1, 2] = np.float32(1e-45)

    found = differences(
        "run-1",
        encode(OUTCOMES[1], bytes_from_arrays(arrays)),
        encode(OUTCOMES[1], bytes_from_arrays(changed)),
    )

    before, after = zlib.crc32(bytes(24)), zlib.crc32(bytes(20) + b"\1\0\0\0")
    assert [str(difference) for difference in found] == [
        f"run-1: outcome 3: z_v: expected float32 [2, 3] (CRC {before:08x}), "
        f"found float32 [2, 3] (CRC {after:08x})"
    ]


def test_a_payload_that_is_no_arrays_is_compared_too():
    assert compared(OUTCOMES[1], OUTCOMES[1], b"x", b"y") == ["payload"]


def test_long_values_are_cut_and_told_apart():
    one, other = (
        structs.replace(OUTCOMES[0], abstention="x" * 100 + end) for end in "ab"
    )

    (found,) = differences("run-1", encode(one), encode(other))

    assert found.expected != found.found
    assert max(len(found.expected), len(found.found)) < 110
