"""Pictures of a BIDS folder: read whole, in the table's order, or refused."""

import numpy as np
import pytest
from PIL import Image

from runtime.errors import RecordingError
from runtime.patch_dct import PatchDct
from tests.participants import tiny_participant
from training.participant import open_participant
from training.stimuli import open_stimuli

HEADER = "stim_id\tcategory\tin_gallery"


def write(folder, text, pictures=("a", "b")):
    (folder / "stimuli").mkdir()
    (folder / "stimuli" / "gallery.tsv").write_text(text, encoding="utf-8")
    rng = np.random.default_rng(0)
    for name in pictures:
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "stimuli" / f"{name}.png")
    return folder


def test_a_simulated_participants_pictures_are_those_it_was_shown():
    stimuli = open_stimuli(tiny_participant())

    truth = open_participant(tiny_participant()).stimuli
    assert stimuli.ids == tuple(one.stim_id for one in truth)
    for row, one in enumerate(truth):
        np.testing.assert_array_equal(stimuli.pixels[row], one.pixels())
        assert stimuli.labels[row] == one.category
        assert stimuli.row(one.stim_id) == row


def test_the_gallery_is_what_the_table_says():
    stimuli = open_stimuli(tiny_participant())

    rows = stimuli.gallery_rows()

    # 12 test images and 12 distractors of the tiny table.
    assert len(rows) == 24
    assert all(stimuli.in_gallery[row] for row in rows)


def test_latents_are_the_backbones_tokens_of_each_picture():
    stimuli, backbone = open_stimuli(tiny_participant()), PatchDct()

    latents = stimuli.latents(backbone)

    assert latents.shape == (60, backbone.tokens, backbone.width)
    for latent, pixels in zip(latents, stimuli.pixels, strict=True):
        np.testing.assert_array_equal(backbone.image_from_tokens(latent), pixels)


def test_a_gallery_flag_is_one_or_true(tmp_path):
    flags = ("1", "true", "True", "0", "false", "n/a")
    rows = [f"a\tx\t{flag}" for flag in flags]

    stimuli = open_stimuli(write(tmp_path, "\n".join([HEADER, *rows])))

    assert stimuli.in_gallery == (True, True, True, False, False, False)


def test_an_unknown_picture_is_named(tmp_path):
    stimuli = open_stimuli(write(tmp_path, f"{HEADER}\na\tx\t1\nb\ty\t0"))

    with pytest.raises(RecordingError) as error:
        stimuli.row("c")

    assert str(error.value) == "stimulus: expected one of the 2 pictures, found c"


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(RecordingError) as error:
        open_stimuli(tmp_path)

    assert str(error.value) == (
        f"{tmp_path / 'stimuli' / 'gallery.tsv'}: expected the table of stimuli, "
        "found No such file or directory"
    )


@pytest.mark.parametrize("text", ["", HEADER, "stim_id\tsize\na\t3"])
def test_a_table_without_its_columns_is_refused(tmp_path, text):
    with pytest.raises(RecordingError) as error:
        open_stimuli(write(tmp_path, text))

    assert "expected columns stim_id, category and in_gallery, found no " in str(
        error.value
    )


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG torn", b"GIF"])
def test_a_missing_or_damaged_picture_is_named(tmp_path, content):
    write(tmp_path, f"{HEADER}\na\tx\t1\nc\ty\t0")
    if content is not None:
        (tmp_path / "stimuli" / "c.png").write_bytes(content)

    with pytest.raises(RecordingError, match=r"c\.png: expected a picture, found "):
        open_stimuli(tmp_path)


def test_a_torn_picture_is_named(tmp_path):
    write(tmp_path, f"{HEADER}\na\tx\t1")
    file = tmp_path / "stimuli" / "a.png"
    file.write_bytes(file.read_bytes()[:-60])

    with pytest.raises(RecordingError, match=r"a\.png: expected a picture, found "):
        open_stimuli(tmp_path)


def test_pictures_of_different_sizes_are_refused(tmp_path):
    write(tmp_path, f"{HEADER}\na\tx\t1\nb\ty\t0")
    Image.new("RGB", (9, 8)).save(tmp_path / "stimuli" / "b.png")

    with pytest.raises(RecordingError) as error:
        open_stimuli(tmp_path)

    assert str(error.value) == (
        f"{tmp_path / 'stimuli' / 'b.png'}: expected 8 x 8 pixels as the first "
        "picture, found 9 x 8"
    )


def test_a_row_with_too_few_columns_is_refused(tmp_path):
    with pytest.raises(RecordingError) as error:
        open_stimuli(write(tmp_path, f"{HEADER}\na\tx\t1\nb"))

    assert str(error.value) == (
        f"{tmp_path / 'stimuli' / 'gallery.tsv'}: expected a category and in_gallery "
        "in line 3, found too few columns"
    )
