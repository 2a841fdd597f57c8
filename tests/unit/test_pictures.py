"""Pictures from files: read as they are, or refused in one line whatever the damage."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import RecordingError
from training.pictures import KINDS, read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def encoded(kind="PNG", mode="RGB"):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("is_plain", [False, True])
def test_pixels_come_back_from_the_file_or_from_its_bytes(tmp_path, is_plain):
    file = tmp_path / "a.png"
    file.write_bytes(encoded())

    found = read_picture(file, is_plain=is_plain)
    given_bytes = read_picture(tmp_path / "none", encoded(), is_plain=is_plain)

    np.testing.assert_array_equal(found, PIXELS)
    np.testing.assert_array_equal(given_bytes, PIXELS)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_plain_is_rgb_and_nothing_that_would_be_converted(tmp_path, mode):
    file = tmp_path / "a.png"
    made = Image.fromarray(PIXELS[:, :, 0]) if mode == "I;16" else None
    if made is None:
        file.write_bytes(encoded(mode=mode))
    else:
        made.convert("I").convert("I;16").save(file)

    assert read_picture(file).shape == PIXELS.shape
    with pytest.raises(RecordingError) as error:
        read_picture(file, is_plain=True)

    assert str(error.value) == f"{file}: expected RGB, found Pillow's mode {mode}"


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "EPS"])
def test_plain_is_png_or_jpeg_whatever_the_file_is_called(tmp_path, kind):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(kind))

    with pytest.raises(RecordingError, match=r"a\.png: expected PNG or JPEG, found "):
        read_picture(file, is_plain=True)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "another file (it is empty)"),
        (b"no picture", "another file (it is text)"),
        (b"\x89PNG torn", "another file (it begins with the bytes 89 50 4e 47)"),
    ],
)
def test_what_is_no_picture_is_named_for_what_it_is(tmp_path, content, found):
    file = tmp_path / "a.png"
    file.write_bytes(content)

    with pytest.raises(RecordingError) as error:
        read_picture(file)

    assert str(error.value) == f"{file}: expected a picture, found {found}"


def test_a_picture_too_large_to_be_meant_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17)
    file = tmp_path / "a.png"
    file.write_bytes(encoded())

    with pytest.raises(RecordingError, match="decompression bomb"):
        read_picture(file)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(["PNG", "JPEG"]),
    is_plain=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), max_size=3),
    length=st.none() | st.integers(0, 160),
)
def test_damage_is_a_picture_or_one_error(tmp_path, kind, is_plain, changes, length):
    data = bytearray(encoded(kind))
    for place, byte in changes:
        data[place] = byte
    file = tmp_path / "a"
    file.write_bytes(data[:length])

    try:
        shape = read_picture(file, is_plain=is_plain).shape
    except RecordingError as error:
        said, shape = str(error), None
    assert shape is None or (len(shape), shape[2]) == (3, 3)
    assert shape is not None or said.startswith(f"{file}: expected ")


def test_a_chunk_that_pillow_calls_a_syntax_error_is_a_damaged_picture(tmp_path):
    # The length of the pixels' chunk is cut, so that the next begins among them.
    data = bytearray(encoded())
    place = data.index(b"IDAT") - 4
    data[place : place + 4] = (20).to_bytes(4)
    file = tmp_path / "a.png"
    file.write_bytes(data)

    with pytest.raises(RecordingError, match="expected a picture, found broken PNG"):
        read_picture(file)


@pytest.mark.parametrize("name", ["picture.eps", "picture.png"])
def test_no_file_is_given_to_another_program(tmp_path, monkeypatch, name):
    """Pillow opens PostScript too, by running Ghostscript on it."""
    drawn = io.BytesIO()
    Image.new("RGB", (4, 4)).save(drawn, "EPS")
    (tmp_path / name).write_bytes(drawn.getvalue())

    def ran(*_arguments, **_named):
        raise AssertionError("expected no process")

    monkeypatch.setattr("subprocess.check_call", ran)
    monkeypatch.setattr("subprocess.Popen", ran)
    with pytest.raises(RecordingError, match="expected a picture, found another file"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_is_read_is_read(tmp_path, kind):
    pixels = np.zeros((16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture", kind)

    np.testing.assert_array_equal(read_picture(tmp_path / "picture"), pixels)
