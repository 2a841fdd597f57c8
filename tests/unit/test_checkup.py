"""Each fact of a machine is judged by its limit, with a remedy where it falls short."""

import dataclasses

import pytest

from verbs.checkup import (
    DESCRIPTORS,
    LEAST_SPILL_BYTES,
    LOG_BYTES,
    SPILL_BYTES,
    Disk,
    Facts,
    findings,
)

GOOD = Facts(
    engines={"onnxruntime": "1.30", "openvino": "2026.0"},
    instructions=("avx2", "fma"),
    clock_source="tsc",
    governor="performance",
    address="tcp://127.0.0.1:5760",
    memory_bytes=SPILL_BYTES,
    disk=Disk("log", free_bytes=LOG_BYTES, sync_s=0.2),
    keys="keys",
    devices=2,
)


def judged(**changes):
    return findings(dataclasses.replace(GOOD, **changes))


def test_a_good_rig_has_nothing_to_fix():
    found = judged()

    assert {one.status for one in found} == {"ok"}
    assert not any(one.remedy for one in found)
    assert len({one.what for one in found}) == len(found) == 14


@pytest.mark.parametrize(
    ("changes", "what", "status"),
    [
        ({"engines": {}}, "engines", "problem"),
        ({"engines": {"cuda-bindings": "13"}}, "engines", "problem"),
        (
            {"engines": {"onnxruntime": "1", "onnxruntime-gpu": "1"}},
            "engines",
            "problem",
        ),
        (
            {"engines": {"openvino": "1", "tensorrt-rtx": "1"}, "gpu": "NVRM"},
            "engines",
            "warning",
        ),
        (
            {"engines": {"tensorrt": "11", "cuda-bindings": "13"}},
            "engines",
            "warning",
        ),
        ({"broken": {"openvino": "no library"}}, "engines", "problem"),
        ({"instructions": ("sse4_2",)}, "instructions", "warning"),
        ({"processors": 3}, "processors", "warning"),
        ({"is_urgent": False}, "scheduling", "warning"),
        ({"clock_s": 4e-3}, "clock", "warning"),
        ({"clock_source": "hpet"}, "clock source", "warning"),
        ({"governor": "powersave"}, "governor", "warning"),
        ({"port_trouble": "address already in use"}, "port", "warning"),
        ({"address_refusal": "address: found 10.0.0.5. Make keys"}, "port", "problem"),
        ({"descriptors": DESCRIPTORS - 1}, "descriptors", "problem"),
        ({"memory_bytes": SPILL_BYTES - 1}, "/dev/shm", "warning"),
        ({"memory_bytes": LEAST_SPILL_BYTES - 1}, "/dev/shm", "problem"),
        ({"memory_bytes": None}, "/dev/shm", "warning"),
        ({"disk": Disk("log", trouble="read-only")}, "log", "problem"),
        ({"disk": Disk("log", refusal="log: a copy. Move it.")}, "log", "problem"),
        ({"disk": Disk("log", free_bytes=LOG_BYTES - 1)}, "log room", "problem"),
        (
            {"disk": Disk("log", free_bytes=LOG_BYTES, sync_s=0.3)},
            "log sync",
            "warning",
        ),
        (
            {"disk": Disk("log", free_bytes=LOG_BYTES, sync_s=1.1)},
            "log sync",
            "problem",
        ),
        ({"key_trouble": "open to others"}, "keys", "problem"),
        ({"devices": 0}, "keys", "warning"),
    ],
)
def test_what_falls_short_is_named_with_its_remedy(changes, what, status):
    wrong = [one for one in judged(**changes) if one.status != "ok"]

    assert [(one.what, one.status) for one in wrong] == [(what, status)]
    assert all(one.remedy for one in wrong)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": ""},
        {"clock_source": None},
        {"governor": None},
        {"machine": "aarch64", "instructions": ("asimd",)},
        {"disk": None},
        {"keys": None, "devices": 0},
    ],
)
def test_what_is_not_needed_or_cannot_be_read_is_no_fault(changes):
    assert all(one.status == "ok" for one in judged(**changes))
