"""Pyneal Scanner's adapters as they speak: the right ones, and the wrong ones."""

import json
import threading

import nibabel
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.sources.listening import place_of, warning
from bci_bridge.sources.pyneal import PynealSource
from bci_bridge.sources.pyneal_message import volume_of
from bci_bridge.sources.source import Refused
from bci_bridge.sources.volume import ScannedVolume
from runtime.errors import ScanError, UsageError

SHAPE = (5, 4, 3)
AFFINE = [[3.0, 0.1, 0, -90], [-0.1, 3.0, 0, -126], [0, 0, 3.6, -20], [0, 0, 0, 1]]


def message(number=0, dtype="float64", tr="1.0", shape=SHAPE, **changes):
    voxels = np.arange(60).reshape(SHAPE).astype(dtype)
    header = {
        "volIdx": number,
        "dtype": dtype,
        "shape": list(shape),
        "affine": json.dumps(AFFINE),
        "TR": tr,
        **changes,
    }
    return [json.dumps(header).encode(), voxels.tobytes()], voxels


@pytest.mark.parametrize(
    ("dtype", "tr", "tr_s", "sent"),
    [
        ("float64", "1.0", 1.0, "float32"),  # Siemens and GE
        ("uint16", "1.0", 1.0, "uint16"),  # Philips, whose tools write seconds
        ("uint16", "2000", 2.0, "uint16"),  # Philips, as its header is meant
        ("float64", "200.0", 0.2, "float32"),  # Pyneal's simulator
        ("int16", 0.72, 0.72, "int16"),
    ],
)
def test_what_each_adapter_sends_is_a_volume(dtype, tr, tr_s, sent):
    frames, voxels = message(7, dtype, tr, software="an unknown key")
    volume = volume_of(frames, "s")

    assert (volume.number, volume.series) == (7, "s")
    assert volume.voxels.dtype == sent
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_array_equal(volume.geometry.affine, AFFINE)
    np.testing.assert_allclose(volume.geometry.tr_s, tr_s)


def test_an_affine_that_is_no_ras_is_turned_as_nibabel_turns_it():
    affine = np.array([[0, 0, 3.0, 1], [-2.0, 0, 0, 2], [0, 2.5, 0, 3], [0, 0, 0, 1]])
    frames, voxels = message(affine=json.dumps(affine.tolist()))
    wanted = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine))
    volume = volume_of(frames, "s")

    np.testing.assert_array_equal(volume.voxels, wanted.get_fdata())
    np.testing.assert_allclose(volume.geometry.affine, wanted.affine, atol=1e-4)


@pytest.mark.parametrize("tr", ["nothing", "nan", "-1", "0"])
def test_a_tr_that_is_none_is_left_to_the_operator(tr):
    assert np.isnan(volume_of(message(tr=tr)[0], "s").geometry.tr_s)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "O"}, "Invalid enum value 'O' - at `$.dtype`"),
        ({"dtype": ">i2"}, "Invalid enum value"),
        ({"shape": [5, 4]}, "Expected `array` of length 3"),
        ({"shape": [5, 4, -3]}, "Expected `int` >= 1 - at `$.shape"),
        (
            {"shape": [5, 4, 4]},
            "expected 640 bytes for [5, 4, 4] of float64, found 480",
        ),
        ({"shape": [1024, 1024, 1024]}, "expected volumes of up to 512 MiB"),
        ({"volIdx": -1}, "Expected `int` >= 0 - at `$.volIdx`"),
        ({"volIdx": "0"}, "Expected `int`, got `str`"),
        ({"affine": "[[1,0,0,0]]"}, "Expected `array` of length 4"),
        ({"affine": json.dumps(np.zeros((4, 4)).tolist())}, "one with an inverse"),
        ({"TR": None}, "Expected `float | str`, got `null`"),
    ],
)
def test_a_bad_header_is_one_clear_line(changes, words):
    (text, data), _ = message()
    changed = json.dumps({**json.loads(text), **changes}).encode()
    with pytest.raises(ScanError) as refused:
        volume_of([changed, data], "s")

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_frames_are_a_volume_or_an_error_of_ours(frames):
    with pytest.raises(ScanError):
        volume_of(frames, "s")


@pytest.mark.parametrize("text", [b"[" * 30_000, b"{" * 70_000, b"\xff\xfe"])
def test_hostile_json_is_an_error_of_ours(text):
    with pytest.raises(ScanError):
        volume_of([text, b""], "s")


@pytest.fixture
def listening():
    source = PynealSource(place_of("127.0.0.1:0"), new_name=iter("012345").__next__)
    yield source
    source.close()


class Adapter(threading.Thread):
    """Speaks as an adapter does: greets, then sends volumes, each after an answer."""

    def __init__(self, address, greeting, messages):
        super().__init__(name="adapter")
        self.address, self.greeting, self.messages = address, greeting, messages
        self.answers = []

    def run(self):
        with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVTIMEO, 10_000)
            socket.connect(self.address)
            if self.greeting is not None:
                socket.send_string(self.greeting)
                self.answers.append(socket.recv_string())
            for frames in self.messages:
                socket.send_multipart(frames)
                self.answers.append(socket.recv_string())


def spoken(source, adapter, n):
    adapter.start()
    found = []
    for _ in range(1000):
        if len(found) == n and not adapter.is_alive():
            break
        arrival = source.poll(0.01)
        if arrival is not None:
            found.append(arrival)
    adapter.join(10)
    return found


def test_an_adapter_is_greeted_and_answered(listening):
    messages = [message(number)[0] for number in (0, 2, 1)]
    adapter = Adapter(listening.address, "hello from pyneal_scanner ", messages)
    found = spoken(listening, adapter, 3)

    assert adapter.answers == [
        "hello from pyneal_scanner ",
        "received volIdx 0",
        "received volIdx 2",
        "received volIdx 1",
    ]
    assert [(one.series, one.number) for one in found] == [
        ("pyneal-0", 0),
        ("pyneal-0", 2),
        ("pyneal-0", 1),
    ]


def test_an_adapter_that_is_started_again_begins_another_series(listening):
    found = []
    for _ in range(2):
        adapter = Adapter(listening.address, "hello", [message()[0]])
        found += spoken(listening, adapter, 1)

    assert [one.series for one in found] == ["pyneal-0", "pyneal-1"]


def test_one_that_goes_on_without_a_greeting_goes_on_with_its_series(listening):
    adapter = Adapter(listening.address, None, [message(5)[0]])
    (volume,) = spoken(listening, adapter, 1)

    assert (volume.series, volume.number) == ("", 5)


def test_what_is_refused_is_answered_and_harms_nothing(listening):
    bad = [[b"x" * 300], [b"{}", b""], message()[0] + [b"more"]]
    adapter = Adapter(listening.address, "hello", [*bad, message()[0]])
    found = spoken(listening, adapter, 4)

    assert adapter.answers == ["hello", *["refused"] * 3, "received volIdx 0"]
    assert [type(one) for one in found] == [*[Refused] * 3, ScannedVolume]


def test_a_port_that_is_taken_is_one_clear_line(listening):
    port = int(listening.address.rpartition(":")[2])
    with pytest.raises(ScanError, match="expected a free port, found: Address already"):
        PynealSource(place_of(f"127.0.0.1:{port}"))


@pytest.mark.parametrize("text", ["5555", "host:5555", "127.0.0.1:x", "*:5555", ""])
def test_a_place_is_the_number_of_one_interface_and_a_port(text):
    with pytest.raises(UsageError, match="--listen: expected HOST:PORT"):
        place_of(text)


def test_a_port_beyond_the_last_is_refused():
    with pytest.raises(UsageError, match="expected a port up to 65535, found 99999"):
        place_of("127.0.0.1:99999")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::ffff:0.0.0.0]", "224.0.0.1"])
def test_all_interfaces_at_once_are_refused(host):
    with pytest.raises(UsageError, match="expected the number of one interface"):
        place_of(f"{host}:5555")


def test_the_operator_is_warned_of_what_others_can_reach():
    assert warning(place_of("localhost:5555"), "this protocol") == ""
    assert warning(place_of("[::1]:5555"), "this protocol") == ""
    assert warning(place_of("192.168.2.1:5555"), "Pyneal's protocol") == (
        "warning: Pyneal's protocol has no encryption and no keys: whoever reaches "
        "192.168.2.1:5555 can send volumes. Use a network of its own, or a tunnel to "
        "loopback"
    )
