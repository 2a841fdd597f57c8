import msgspec
import pytest

from bci_bridge import messages, outcomes
from bci_bridge.header import VERSION, Header
from bci_bridge.wire import checked, decode, encode
from runtime.errors import UsageError

KINDS = messages.Message.__args__
RUN_START = messages.RunStart(
    run="run-1", shape=(1, 1, 1), tr_s=1.0, expected_volumes=5, budget_s=1.0
)


def test_every_kind_has_a_name_of_its_own():
    tags = [kind.__struct_config__.tag for kind in KINDS]

    assert len(set(tags)) == len(tags)
    assert all(tag.isupper() for tag in tags)


def test_every_kind_shares_the_header():
    assert all(issubclass(kind, Header) for kind in KINDS)
    assert all(kind.__struct_config__.tag_field == "kind" for kind in KINDS)


def test_a_json_schema_can_be_published():
    schema = msgspec.json.schema(messages.Message)

    assert len(schema["anyOf"]) == len(KINDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tr_s": 0.0}, "RunStart: Expected `float` > 0.0 - at `$.tr_s`"),
        (
            {"shape": (1, 0, 1)},
            "RunStart: Expected `int` >= 1 - at `$.shape[1]`",
        ),
        (
            {"run": "../up"},
            "RunStart: run: expected up to 128 letters, digits and ._+-, "
            "found '../up'. Put - in the place of others",
        ),
        (
            {"bundle_sha256": "A"},
            "RunStart: Expected `str` matching regex "
            r"'^[0-9a-f]{64}$(?!\\n)' - at `$.bundle_sha256`",
        ),
    ],
)
def test_a_value_out_of_range_is_named(change, message):
    good = messages.RunStart(
        run="r", shape=(1, 1, 1), tr_s=1.0, expected_volumes=1, budget_s=1.0
    )

    with pytest.raises(UsageError) as caught:
        checked(msgspec.structs.replace(good, **change))

    assert str(caught.value) == message


def test_a_record_without_fault_is_given_back_unchanged():
    volume = messages.Volume(
        run="r", stream="s", volume_index=3, acquired_ns=-5, dtype="f4", shape=(2, 3, 4)
    )

    assert checked(volume) == volume


def test_only_the_server_speaks_of_outcomes():
    spoken = {kind for kind in KINDS if issubclass(kind, outcomes.Outcome)}

    assert spoken == {
        outcomes.VolumeOutcome,
        outcomes.TrialOutcome,
        outcomes.Update,
        outcomes.RunEnded,
    }
    assert VERSION == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affine": (1.0,) * 15}, "affine: expected 16 finite numbers"),
        ({"tr_s": float("nan")}, "tr_s and budget_s: expected finite seconds"),
    ],
)
def test_a_run_that_cannot_be_is_never_built(change, message):
    fields = {"shape": (1, 1, 1), "tr_s": 1.0, "expected_volumes": 1, "budget_s": 1.0}

    with pytest.raises(ValueError, match=message):
        messages.RunStart(**{**fields, **change})


@pytest.mark.parametrize(
    ("field", "value"),
    [("run", "run-1\n"), ("bundle_sha256", "a" * 64 + "\n"), ("subject", "01\n")],
)
def test_a_line_break_is_no_part_of_a_name_or_hash(field, value):
    start = {
        "kind": "RUN_START", "run": "run-1", "shape": [1, 1, 1], "tr_s": 1.0,
        "expected_volumes": 1, "budget_s": 1.0,
    }  # fmt: skip

    msgspec.convert({**start, field: value[:-1]}, messages.RunStart)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**start, field: value}, messages.RunStart)


def test_what_a_sender_does_not_know_is_left_out_of_a_header():
    start = RUN_START
    volume = messages.Volume(volume_index=0, acquired_ns=0, dtype="i2", shape=(1, 1, 1))

    unsaid = (
        (start, b"slice_times_us"),
        (start, b"confound_names"),
        (volume, b"confounds"),
    )
    for record, name in unsaid:
        assert name not in encode(record, b"\0\0").header


def test_names_of_confounds_are_told_where_a_header_has_room_for_them():
    motion = tuple(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")

    assert messages.confound_names(()) == ()
    assert messages.confound_names(["resp"]) == ("resp",)
    assert messages.confound_names(motion) == motion
    assert (
        messages.confound_names([f"{name}_power2" for name in motion]) is msgspec.UNSET
    )


def test_a_header_holds_the_slice_times_of_eighty_slices_and_more_are_not_told():
    crowded = msgspec.structs.replace(
        RUN_START,
        run="r" * 40,
        affine=(0.1,) * 16,
        bundle_sha256="0" * 64,
        gallery_sha256="0" * 64,
        slice_times_us=messages.slice_times_us([k / 40 for k in range(80)]),
    )

    assert decode((encode(crowded).header, b"")).record.slice_times_us[79] == 1_975_000
    assert messages.slice_times_us([0.1] * 81) is msgspec.UNSET
    assert messages.slice_times_us(()) is msgspec.UNSET
