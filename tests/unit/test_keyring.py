"""What key files and the allow-list say, and what they may not."""

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec import structs
from zmq.utils import z85

from bci_bridge.keyring import (
    AllowList,
    Device,
    KeyPair,
    PublicKey,
    check_key,
    decoded,
    lost_access,
    with_device,
    with_revoked,
    z85_from_bytes,
)
from runtime.errors import ArtifactError, UsageError
from runtime.small_json import encoded

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEYS = [z85_from_bytes(bytes([value]) * 32) for value in range(4)]


def _device(name="scanner", key=0, **changes):
    device = Device(name=name, public_key=KEYS[key], roles=("scanner",))
    return structs.replace(device, **changes)


def _list(*devices):
    return AllowList(version=1, devices=devices)


def test_keys_are_written_as_zeromq_writes_them():
    for value in (bytes(32), bytes(range(32)), b"\xff" * 32):
        assert z85_from_bytes(value) == z85.encode(value).decode()
        check_key(z85_from_bytes(value))


def test_what_is_written_is_what_is_read():
    allowed = _list(_device(), _device("old", 1, revoked=NOW))

    assert decoded(encoded(allowed), AllowList, "file") == allowed
    assert list(allowed.in_force()) == [KEYS[0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "file: damaged: Input data was truncated"),
        (b"[]", "file: damaged: Expected `object`, got `array`"),
        (
            b'{"version": 1, "mood": 1}',
            "file: damaged: Object contains unknown field `mood`",
        ),
        (b'{"version": 2}', "file: damaged: Invalid enum value 2 - at `$.version`"),
        (
            b'{"version": 1, "devices": [{"name": "a", "public_key": "%s", '
            b'"roles": ["king"]}]}' % KEYS[0].encode(),
            "file: damaged: Invalid enum value 'king' - at `$.devices[0].roles[0]`",
        ),
        (
            b'{"version": 1, "devices": [{"name": "a", "public_key": "%s", '
            b'"roles": []}]}' % KEYS[0].encode(),
            "file: damaged: Expected `array` of length >= 1 - at `$.devices[0].roles`",
        ),
        (
            b'{"version": 1, "devices": [{"name": "a", "public_key": "%s", '
            b'"roles": ["scanner"]}]}' % (b"#" * 40),
            "file: damaged: expected a key of 40 characters of Z85 - at `$.devices[0]`",
        ),
        (
            b'{"version": 1, "devices": [{"name": "../a", "public_key": "%s", '
            b'"roles": ["scanner"]}]}' % KEYS[0].encode(),
            "file: damaged: Expected `str` matching regex "
            "'^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\\\\Z' - at `$.devices[0].name`",
        ),
        (
            b'{"version": 1, "a\\nb": 1}',
            "file: damaged: Object contains unknown field `a b`",
        ),
        (b" " * (1 << 21), "file: expected at most 1048576 bytes, found more"),
    ],
)
def test_a_damaged_list_is_one_clear_line(text, message):
    with pytest.raises(ArtifactError) as caught:
        decoded(text[: (1 << 20) + 1], AllowList, "file")

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([_device(), _device("other")], "expected every public key once"),
        ([_device(), _device(key=1)], "expected every name once among those in force"),
        ([_device("server")], "expected no device named 'server'"),
    ],
)
def test_a_list_names_every_device_and_key_once(devices, message):
    text = msgspec.json.encode({"version": 1, "devices": devices})

    with pytest.raises(ArtifactError, match=message):
        decoded(text, AllowList, "file")


@pytest.mark.parametrize("name", ["", "a/b", "a\n", ".a", "a" * 65, "é"])
def test_a_name_is_one_safe_component_of_a_path(name):
    text = msgspec.json.encode({"name": name, "public_key": KEYS[0]})

    with pytest.raises(ArtifactError):
        decoded(text, PublicKey, "file")


def test_no_secret_is_ever_in_a_text():
    secret = KEYS[1]
    pair = KeyPair(name="a", public_key=KEYS[0], secret_key=secret)
    short = encoded(pair).replace(secret.encode(), secret[:-1].encode())
    extra = encoded(pair).replace(b'"name"', b'"nama"')

    assert secret not in f"{pair}{pair!r}{[pair]}"
    for text in (short, extra):
        with pytest.raises(ArtifactError) as caught:
            decoded(text, KeyPair, "file")
        assert secret[:20] not in str(caught.value)


def test_a_name_in_force_is_not_given_twice_and_a_revoked_one_may_be():
    allowed = with_device(_list(), _device())

    with pytest.raises(UsageError) as caught:
        with_device(allowed, _device(key=1))
    revoked = with_revoked(allowed, "scanner", NOW)
    again = with_device(revoked, _device(key=1))

    assert str(caught.value) == (
        "--name: expected a new name, found 'scanner' in force. "
        "Revoke it first: neuroflow keys revoke --folder ... --name scanner"
    )
    assert [device.revoked for device in again.devices] == [NOW, None]
    assert list(again.in_force()) == [KEYS[1]]


@pytest.mark.parametrize("name", ["nobody", "old"])
def test_only_a_name_in_force_can_be_revoked(name):
    allowed = _list(_device(), _device("old", 1, revoked=NOW))

    with pytest.raises(UsageError) as caught:
        with_revoked(allowed, name, NOW)

    assert str(caught.value) == f"--name: expected a name in force, found {name!r}"


def test_access_is_lost_by_revocation_and_by_a_role_less_not_by_a_new_device():
    one, two = _device(), _device("b", 1, roles=("stimulus", "observer"))
    before = _list(one, two).in_force()

    assert not lost_access(before, _list(one, two, _device("c", 2)).in_force())
    assert lost_access(before, _list(one).in_force())
    less = structs.replace(two, roles=("stimulus",))
    assert lost_access(before, _list(one, less).in_force())
