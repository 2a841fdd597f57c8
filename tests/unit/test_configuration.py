"""What a run is done with: all that can change an answer has a part in its hash."""

import msgspec
import pytest
from msgspec import structs

from bci_bridge.configuration import Configuration
from bci_bridge.header import Header
from bci_bridge.messages import RigNote, RunStart
from tests.integration.tiny import SHAPE, MeanDecoder

START = RunStart(run="run-1", shape=SHAPE, tr_s=1.0, expected_volumes=5, budget_s=1.0)
RIG = RigNote(
    backend="ort",
    precision="f32",
    threads=None,
    processors=2,
    abstain_below=0.0,
    cpu=("x86_64", "avx2"),
    versions={"numpy": "2.0.0"},
)
OF_START = {
    "shape": (1, 2, 3),
    "tr_s": 2.0,
    "expected_volumes": 6,
    "budget_s": 2.0,
    "pace": "catchup",
    "late": "drop",
    "affine": (1.0,) * 16,
    "subject": "01",
    "session": "02",
    "task": "look",
    "is_rehearsal": True,
    "slice_times_us": (0, 500_000),
    "updates": True,
}
OF_RIG = {
    "backend": "openvino",
    "precision": "bf16",
    "threads": 1,
    "processors": 4,
    "abstain_below": 0.5,
    "cpu": ("x86_64",),
    "versions": {"numpy": "2.0.1"},
}
DEMANDED = {"bundle_sha256", "gallery_sha256"}
"""Of the server by RUN_START; what it has is asked of the decoder."""
ANNOUNCED = {"confound_names"}
"""What a bundle asks for is the bundle's; what is told beyond it changes no answer."""


def hash_of(start=START, rig=RIG):
    return Configuration.of(start, MeanDecoder(), rig).sha256


def test_every_field_that_begins_a_run_or_tells_of_the_rig_is_tried_here():
    of_start = {*OF_START, *DEMANDED, *ANNOUNCED}
    for kind, tried in ((RunStart, of_start), (RigNote, {*OF_RIG})):
        own = set(kind.__struct_fields__) - set(Header.__struct_fields__)
        assert tried == own


@pytest.mark.parametrize("field", OF_START)
def test_a_run_that_is_announced_otherwise_is_another_experiment(field):
    changed = structs.replace(START, **{field: OF_START[field]})

    assert hash_of(changed) != hash_of()


@pytest.mark.parametrize("field", OF_RIG)
def test_a_run_on_another_rig_is_another_experiment(field):
    assert hash_of(rig=structs.replace(RIG, **{field: OF_RIG[field]})) != hash_of()


def test_a_run_s_name_and_sender_are_no_part_of_it():
    assert hash_of(structs.replace(START, run="run-2", stream="mr")) == hash_of()
    assert hash_of(structs.replace(START, confound_names=("resp",))) == hash_of()


def test_what_an_earlier_version_froze_is_known_by_its_hash():
    start = structs.replace(START, slice_times_us=(0, 500_000))
    frozen = Configuration.of(start, MeanDecoder(), RIG)
    earlier = structs.replace(frozen, slice_times_us=(), processors=0)

    assert b"slice" not in msgspec.json.encode(earlier)
    assert b"processors" not in msgspec.json.encode(earlier)
    assert frozen.as_cited(earlier.sha256) == earlier
    assert frozen.as_cited(frozen.sha256) == frozen
    assert frozen.as_cited("0" * 64) == frozen
