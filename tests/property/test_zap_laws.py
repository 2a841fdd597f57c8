"""Laws of who is let in: over any request, any list, any bytes."""

from datetime import UTC, datetime

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from bci_bridge.keyring import AllowList, Device, check_key, decoded, z85_from_bytes
from bci_bridge.zap import DOMAINS, INPUTS, Rules, answer
from runtime.errors import ArtifactError

ROLES = ["scanner", "stimulus", "operator", "observer"]
SECRETS = [bytes([value]) * 32 for value in range(6)]
ATTACKER = SECRETS[5]

roles = st.lists(st.sampled_from(ROLES), min_size=1, max_size=4, unique=True)
rules = st.builds(
    lambda given, is_open: Rules(
        {
            z85_from_bytes(SECRETS[index]): Device(
                name=f"d{index}",
                public_key=z85_from_bytes(SECRETS[index]),
                roles=tuple(found),
            )
            for index, found in given.items()
        },
        z85_from_bytes(ATTACKER),
        is_open,
    ),
    st.dictionaries(st.integers(0, 3), roles),
    st.booleans(),
)
requests = st.tuples(
    st.sampled_from([b"1.0", b"2.0", b""]),
    st.binary(max_size=8),
    st.sampled_from([*DOMAINS, b"", b"global", b"neuroflow"]) | st.binary(max_size=20),
    st.binary(max_size=8),
    st.binary(max_size=8),
    st.sampled_from([b"CURVE", b"NULL", b"PLAIN", b"GSSAPI", b"curve", b""]),
    st.sampled_from(SECRETS) | st.binary(max_size=40),
).map(list)


@settings(max_examples=500, deadline=None)
@given(requests, rules)
def test_only_a_key_in_force_with_the_right_role_is_ever_let_in(request_, given_rules):
    version, request_id, status, _, user, _ = answer(request_, given_rules)

    assert (version, request_id) == (b"1.0", request_[1])
    if status != b"200":
        assert user == b""
        return
    key = z85.encode(request_[6])
    assert user == key
    assert request_[0] == b"1.0"
    assert request_[5] == b"CURVE"
    if request_[6] == ATTACKER:
        assert request_[2] == INPUTS
        return
    device = given_rules.devices[key.decode()]
    assert given_rules.is_open
    assert request_[2] == INPUTS or {"observer", "operator"} & set(device.roles)


@given(st.sampled_from([*DOMAINS]), rules)
def test_the_servers_own_attack_knocks_at_the_inputs_and_has_no_role(
    domain, given_rules
):
    request = [b"1.0", b"7", domain, b"10.0.0.1", b"", b"CURVE", ATTACKER]

    status, text = answer(request, given_rules)[2:4]

    is_in = domain == INPUTS
    assert (status, text) == ((b"200", b"OK") if is_in else (b"400", b"wrong role"))


@given(st.sampled_from(SECRETS[:4]), rules)
def test_a_key_in_force_is_let_in_at_the_inputs_of_an_open_server(secret, given_rules):
    request = [b"1.0", b"7", INPUTS, b"10.0.0.1", b"", b"CURVE", secret]

    status = answer(request, given_rules)[2]

    is_known = z85_from_bytes(secret) in given_rules.devices
    opened = b"200" if given_rules.is_open else b"300"
    assert status == (opened if is_known else b"400")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=10), rules)
def test_any_frames_whatever_get_a_refusal(frames, given_rules):
    reply = answer(frames, given_rules)

    assert len(reply) == 6
    assert all(isinstance(frame, bytes) for frame in reply)
    assert reply[2] == b"400"


@given(requests, rules, st.integers(0, 6))
def test_a_request_with_a_part_too_few_or_too_many_is_refused(
    request_, given_rules, place
):
    short = request_[:place] + request_[place + 1 :]
    long = [*request_[:place], b"x", *request_[place:]]

    assert answer(short, given_rules)[2] == b"400"
    assert answer(long, given_rules)[2] == b"400"


@given(st.binary(min_size=32, max_size=32))
def test_every_32_bytes_are_a_key_and_read_back_the_same(data):
    text = z85_from_bytes(data)

    check_key(text)
    assert z85.decode(text) == data


GOOD = msgspec.json.encode(
    AllowList(
        version=1,
        devices=tuple(
            Device(
                name=f"d{index}",
                public_key=z85_from_bytes(SECRETS[index]),
                roles=("scanner", "observer"),
                revoked=datetime(2026, 1, 1, tzinfo=UTC) if index == 2 else None,
            )
            for index in range(3)
        ),
    )
)


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=200)
    | st.tuples(
        st.lists(
            st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4
        ),
        st.integers(0, len(GOOD)),
    )
)
def test_any_bytes_are_a_list_or_an_error_and_never_bring_a_revoked_key_back(text):
    if isinstance(text, tuple):
        changes, end = text
        damaged = bytearray(GOOD)
        for place, value in changes:
            damaged[place] = value
        text = bytes(damaged[: end or None])
    allowed, found = AllowList(version=1), "file: damaged: "
    try:
        allowed = decoded(text, AllowList, "file")
    except ArtifactError as error:
        found = str(error)

    assert found.startswith("file: damaged: ")
    assert "\n" not in found
    assert z85_from_bytes(SECRETS[2]) not in allowed.in_force()
    for key, device in allowed.in_force().items():
        check_key(key)
        assert device.revoked is None
        assert set(device.roles) <= set(ROLES)
