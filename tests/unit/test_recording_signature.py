"""Signed recordings: what a signature covers, and the golden lines of what it does not.

The chains are real, the segments a few hundred bytes long.
"""

import json
import os
import shutil
import stat

import msgspec
import pytest

from bci_bridge.chain import CHAIN
from bci_bridge.chain_file import check_chain
from bci_bridge.chain_signature import SIGNATURE, RecordingSignature
from bci_bridge.messages import Missing
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recorder import Recorder
from bci_bridge.recording_signature import (
    check_goes_on,
    read_signature,
    sign_recording,
)
from bci_bridge.wire import encode
from runtime.errors import RecordingError
from runtime.signing import signing_key
from runtime.small_json import encoded
from verbs.verify_recording import verify_recording

KEY = signing_key("site", bytes(range(32)))
OTHER = signing_key("other", bytes(32))
SHORT, OTHER_SHORT = KEY.public_key[:16], OTHER.public_key[:16]


def write(folder, count=3, first=0, marks=(b"i", b"o")):
    """Let two writers add to a recording and end in order."""
    for log, mark in zip((INPUTS, OUTCOMES), marks, strict=True):
        recorder = Recorder(
            folder / log, sync_interval_s=0.001, first_order=first, reserve_bytes=0
        )
        for number in range(count):
            recorder.append("in/a", encode(Missing(volume_index=number), mark), 0)
        recorder.close()


@pytest.fixture
def signed(tmp_path):
    """A recording of one segment a log, signed."""
    folder = tmp_path / "rec"
    write(folder)
    sign_recording(folder, KEY)
    return folder


@pytest.fixture
def trust(tmp_path):
    """Where the public halves of both signers are."""
    for key in (KEY, OTHER):
        (tmp_path / f"{key.name}.pub").write_bytes(encoded(key.public))
    return {key.name: (tmp_path / f"{key.name}.pub",) for key in (KEY, OTHER)}


@pytest.fixture
def verified(capsys):
    """Verify; return what is printed, or the line of the refusal after `error: `."""

    def verify(folder, trust=(), *, as_json=False):
        try:
            verify_recording(folder, trust=trust, as_json=as_json)
        except RecordingError as error:
            assert capsys.readouterr().out == ""
            return f"error: {error}".replace(str(folder), "REC")
        return capsys.readouterr().out

    return verify


def head(folder, log):
    return check_chain(folder / log).head


def chained(folder, count=1):
    return "".join(
        f"{log}: {count} segments as chained, head {head(folder, log)}\n"
        for log in (INPUTS, OUTCOMES)
    )


def test_a_signed_recording_says_by_whom(signed, trust, verified):
    known, unknown = verified(signed, trust["site"]), verified(signed)
    both = verified(signed, trust["other"] + trust["site"])

    by = f"signature: signed by site (key {SHORT}), verified\n"
    assert known == both == chained(signed) + by
    assert unknown == (
        chained(signed) + f"signature: signed by unknown key {SHORT}, not verified\n"
    )


def test_the_signature_is_one_small_file_of_its_owner(signed):
    found = json.loads((signed / SIGNATURE).read_text())

    assert stat.S_IMODE((signed / SIGNATURE).stat().st_mode) == 0o600
    assert list(found) == [
        "version", "algorithm", "public_key", INPUTS, OUTCOMES, "signature",
    ]  # fmt: skip
    assert found[INPUTS] == {"segments": 1, "head": head(signed, INPUTS)}
    assert KEY.secret_key not in (signed / SIGNATURE).read_text()
    # Deterministic (RFC 8032): nothing else leaks through a signature.
    before = (signed / SIGNATURE).read_bytes()
    sign_recording(signed, KEY)
    assert (signed / SIGNATURE).read_bytes() == before


def test_what_says_nothing_of_a_signature_is_refused_where_one_is_demanded(
    tmp_path, trust, verified
):
    write(tmp_path / "rec")

    assert verified(tmp_path / "rec") == chained(tmp_path / "rec") + "signature: none\n"
    assert verified(tmp_path / "rec", trust["site"]) == (
        "error: REC: expected a signature by site, found none"
    )


def test_another_signer_is_refused(signed, trust, verified):
    assert verified(signed, trust["other"]) == (
        f"error: REC: expected a signature by other, found one by key {SHORT}"
    )


def test_what_is_recorded_afterwards_is_not_signed_until_the_next_end(
    signed, trust, verified
):
    write(signed, first=3)
    stale, refused = verified(signed), verified(signed, trust["site"])
    check_goes_on(signed)
    sign_recording(signed, KEY)

    names = {
        log: check_chain(signed / log).chain.links[1].segment
        for log in (INPUTS, OUTCOMES)
    }
    assert stale == (
        chained(signed, 2)
        + f"signature: signed by unknown key {SHORT}, not verified\n"
        + "".join(
            f"signature: {log}: {name} not signed: added or recorded afterwards\n"
            for log, name in names.items()
        )
    )
    assert refused == (
        "error: REC: inputs: expected no segment that site has not signed, found "
        f"{names[INPUTS]}. Added afterwards, or recorded unsigned."
    )
    assert verified(signed, trust["site"]).endswith(f"(key {SHORT}), verified\n")


def test_a_segment_without_a_link_is_not_signed_and_not_covered(
    signed, trust, verified
):
    (signed / OUTCOMES / "000009.mcap").write_bytes(b"x")
    refused = verified(signed, trust["site"])
    with pytest.raises(RecordingError) as caught:
        sign_recording(signed, KEY)

    assert refused == (
        "error: REC: outcomes: expected no segment that site has not signed, found "
        "000009.mcap. Added afterwards, or recorded unsigned."
    )
    assert str(caught.value) == (
        f"{signed}: outcomes: expected all segments chained, found 000009.mcap "
        "without a link. Nothing is signed."
    )


def test_swapped_logs_are_refused_trusted_or_not(signed, trust, verified):
    heads = head(signed, INPUTS), head(signed, OUTCOMES)
    (signed / INPUTS).rename(signed / "x")
    (signed / OUTCOMES).rename(signed / INPUTS)
    (signed / "x").rename(signed / OUTCOMES)

    line = (
        f"error: REC: inputs: expected head {heads[0]} of 1 segments as signed, "
        f"found {heads[1]}. It was changed after it was signed."
    )
    assert verified(signed) == verified(signed, trust["site"]) == line


def test_the_signature_of_another_recording_is_refused_trusted_or_not(
    signed, tmp_path, trust, verified
):
    write(tmp_path / "other", marks=(b"x", b"y"))
    shutil.copy(signed / SIGNATURE, tmp_path / "other" / SIGNATURE)

    for given in ((), trust["site"]):
        found = verified(tmp_path / "other", given)
        assert found.startswith(
            f"error: REC: inputs: expected head {head(signed, INPUTS)} of 1 segments"
        )


def test_a_segment_removed_with_its_link_is_missed(signed, trust, verified):
    write(signed, first=3)
    before = {log: (signed / log / CHAIN).read_bytes() for log in (INPUTS, OUTCOMES)}
    sign_recording(signed, KEY)
    for log in (INPUTS, OUTCOMES):
        chain = json.loads(before[log])
        last = chain["links"].pop()["segment"]
        (signed / log / last).unlink()
        (signed / log / CHAIN).write_text(json.dumps(chain))

    line = (
        "error: REC: inputs: expected the 2 segments that were signed, found 1. "
        "It was changed after it was signed."
    )
    assert verified(signed) == verified(signed, trust["site"]) == line


def test_a_whole_chain_made_anew_is_refused_although_it_holds_in_itself(
    signed, trust, verified
):
    shutil.rmtree(signed / INPUTS)
    shutil.rmtree(signed / OUTCOMES)
    write(signed, marks=(b"forged", b"o"))
    found = verified(signed, trust["site"])
    with pytest.raises(RecordingError) as asked:
        check_goes_on(signed)
    with pytest.raises(RecordingError) as again:
        sign_recording(signed, KEY)

    assert found.endswith(". It was changed after it was signed.")
    assert str(asked.value) == str(again.value) == found[7:].replace("REC", str(signed))


@pytest.mark.slow
def test_every_changed_byte_of_every_file_is_found(signed, trust, verified):
    files = sorted(x for x in signed.rglob("*") if x.is_file() and x.name != ".lock")
    assert len(files) == 5
    for file in files:
        data = file.read_bytes()
        # Each byte of what is small and decides, and a hundred of each segment.
        step = 1 if file.name == SIGNATURE else max(len(data) // 100, 1)
        for at in range(0, len(data), step):
            changed = bytearray(data)
            changed[at] ^= 0x01
            file.write_bytes(changed)
            assert verified(signed, trust["site"]).startswith("error: REC"), (file, at)
        file.write_bytes(data)
    assert verified(signed, trust["site"]).endswith(", verified\n")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: b"{}", "damaged: Object missing required field `public_key`"),
        (lambda text: text + b" " * 5000, "expected at most 4096 bytes, found more"),
        (
            lambda text: text + b"\n",
            "expected a signature that fits what it says, found another",
        ),
        (
            lambda text: text.replace(b'"segments": 1', b'"segments": 2', 1),
            "expected a signature that fits what it says, found another",
        ),
        (
            lambda text: text.replace(
                KEY.public_key.encode(), OTHER.public_key.encode()
            ),
            "expected a signature that fits what it says, found another",
        ),
    ],
)
def test_a_damaged_signature_is_refused_trusted_or_not(
    signed, trust, verified, change, line
):
    (signed / SIGNATURE).write_bytes(change((signed / SIGNATURE).read_bytes()))

    expected = f"error: REC: {SIGNATURE}: {line}"
    assert verified(signed) == verified(signed, trust["site"]) == expected


def test_a_link_in_the_signatures_place_is_not_followed(signed, tmp_path, verified):
    (signed / SIGNATURE).rename(tmp_path / "elsewhere")
    (signed / SIGNATURE).symlink_to(tmp_path / "elsewhere")

    assert verified(signed).startswith("error: REC/recording.sig: expected a signature")


def test_the_logs_of_a_signature_cannot_change_places(signed):
    """Signed is which log has which head: the same two heads say another thing."""
    found = read_signature(signed)
    swapped = msgspec.structs.replace(
        found, inputs=found.outcomes, outcomes=found.inputs
    )
    (signed / SIGNATURE).write_bytes(encoded(swapped))

    assert isinstance(swapped, RecordingSignature)
    with pytest.raises(RecordingError, match="expected a signature that fits"):
        read_signature(signed)


def test_json_says_the_same(signed, trust, verified):
    write(signed, first=3)
    stale = json.loads(verified(signed, as_json=True))
    (signed / SIGNATURE).unlink()
    none = json.loads(verified(signed, as_json=True))

    assert stale["signature"] == {
        "public_key": KEY.public_key,
        "name": None,
        "unsigned": {
            log: [check_chain(signed / log).chain.links[1].segment]
            for log in (INPUTS, OUTCOMES)
        },
    }
    assert none["signature"] is None
    assert none[INPUTS] == {
        "segments": 2, "head": head(signed, INPUTS), "unchained": [],
    }  # fmt: skip


def test_where_nothing_was_recorded_nothing_is_signed(tmp_path):
    assert sign_recording(tmp_path, KEY) == 0
    assert os.listdir(tmp_path) == []
