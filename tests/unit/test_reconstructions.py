"""Pictures rendered elsewhere: one an image by its name, or one line that says what."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import neuroflow
from runtime.errors import ArtifactError, UsageError
from training.metrics.result import Absent
from verbs.reconstructions import LATENTS, read_reconstructions, write_latents
from verbs.split_trials import SplitTrials

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
FLAGS = re.DOTALL | re.MULTILINE
NAMES = ["nsd-00007", "nsd-00003", "own/cat.jpg"]
FILES = ["nsd-00007.png", "nsd-00003.png", "own/cat.jpg.png"]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3)).astype(np.uint8)


def trials(pictures=PIXELS, names=NAMES):
    return SplitTrials(
        betas=np.zeros((3, 2), np.float32),
        shown=np.arange(3),
        z_v=np.zeros((3, 1, 2), np.float32),
        pictures=pictures,
        names=names,
        labels=None,
        rois={},
    )


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "rendered"
    (made / "own").mkdir(parents=True)
    for name, pixels in zip(FILES, PIXELS, strict=True):
        Image.fromarray(pixels).save(made / name)
    return made


def test_pictures_are_those_of_the_images_in_the_images_order(folder):
    found = read_reconstructions(folder, trials())

    np.testing.assert_array_equal(found.pictures, PIXELS)
    assert (found.record.images, found.record.side) == (3, 6)


def test_the_hash_is_that_of_what_sha256sum_prints(folder):
    found = read_reconstructions(folder, trials()).record.sha256

    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("nsd-00003.png", "nsd-00007.png", "own/cat.jpg.png")
    ]
    assert found == hashlib.sha256("".join(lines).encode()).hexdigest()
    Image.fromarray(PIXELS[1]).save(folder / FILES[0])
    assert read_reconstructions(folder, trials()).record.sha256 != found


def test_the_pages_lines_render_and_hash_names_with_a_slash(tmp_path, monkeypatch):
    _, _, section = PAGE.partition("### Pictures rendered elsewhere")
    render, digest = (
        textwrap.dedent(re.findall(rf"^ *```{kind}\n(.*?)^ *```", section, FLAGS)[0])
        for kind in ("python", "sh")
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/first").mkdir(parents=True)
    rows = {name: np.full((1, 2), row, "f") for row, name in enumerate(NAMES)}
    save_file(rows, tmp_path / "out/first" / LATENTS)

    exec(render, {"unclip": lambda z_v: Image.fromarray(PIXELS[int(z_v[0, 0])])})

    found = read_reconstructions(tmp_path / "rendered", trials())
    np.testing.assert_array_equal(found.pictures, PIXELS)
    said = subprocess.run(["sh", "-c", digest], capture_output=True, text=True)
    assert said.stdout.split()[0] == found.record.sha256, said.stderr


def test_a_picture_may_have_its_images_own_ending(folder):
    Image.new("RGB", (6, 6), (90, 90, 90)).save(folder / "own/cat.jpg")
    (folder / FILES[2]).unlink()

    found = read_reconstructions(folder, trials())

    assert (found.pictures[2] == 90).all()


def refused(folder, split=None):
    with pytest.raises(ArtifactError) as error:
        read_reconstructions(folder, split or trials())
    assert type(error.value) is ArtifactError
    return str(error.value).replace(str(folder), "RENDERED")


REMEDY = (
    ". Name each by its image, such as nsd-00007.png; decoded_latents.safetensors has "
    "the names (--save-latents)"
)
EXPECTED = (
    "--reconstructions: RENDERED: expected one picture for each of the 3 images of the "
    "split, found "
)


@pytest.mark.parametrize(
    ("missing", "extra", "found"),
    [
        (FILES[1:2], [], "none for 1 (nsd-00003)"),
        (FILES, [], "none for 3 (nsd-00007, nsd-00003, ...)"),
        ([], ["notes.txt", "x/1.png"], "2 of no image (notes.txt, x/1.png)"),
        ([], ["nsd-00003.jpg"], "several for 1 (nsd-00003)"),
        (
            FILES[:1], ["7.png", "own/cat.jpg"],
            "none for 1 (nsd-00007), several for 1 (own/cat.jpg), 1 of no image "
            "(7.png)",
        ),
    ],
)  # fmt: skip
def test_missing_and_extra_pictures_are_named(folder, missing, extra, found):
    for name in missing:
        (folder / name).unlink()
    for name in extra:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(next(f for f in folder.rglob("*.png")), folder / name)

    assert refused(folder) == EXPECTED + found + REMEDY


def grey(file):
    Image.fromarray(PIXELS[0, :, :, 0]).save(file)


def see_through(file):
    Image.fromarray(PIXELS[0]).convert("RGBA").save(file)


def gif(file):
    Image.fromarray(PIXELS[0]).save(file, "GIF")


def words(file):
    file.write_text("no picture")


def pickled(file):
    file.write_bytes(b"\x80\x04cos\nsystem\n")


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (grey, "expected RGB, found Pillow's mode L"),
        (see_through, "expected RGB, found Pillow's mode RGBA"),
        (
            gif, "expected PNG or JPEG, found another file (it begins with the bytes "
            "47 49 46 38)",
        ),
        (words, "expected PNG or JPEG, found another file (it is text)"),
    ],
)  # fmt: skip
def test_what_is_no_plain_picture_is_named(folder, harm, line):
    harm(folder / FILES[1])

    assert refused(folder) == (
        f"--reconstructions: RENDERED/nsd-00003.png: {line}. Write it as PNG, 8-bit RGB"
    )


def test_a_torn_picture_and_a_pickle_are_refused(folder):
    file = folder / FILES[0]
    file.write_bytes(file.read_bytes()[:-40])
    assert refused(folder).startswith(
        "--reconstructions: RENDERED/nsd-00007.png: expected PNG or JPEG, found "
    )

    pickled(file)
    assert "expected PNG or JPEG, found another file (" in refused(folder)


def test_pictures_of_other_sizes_are_refused(folder):
    Image.fromarray(PIXELS[1]).resize((7, 7)).save(folder / FILES[1])

    assert refused(folder) == (
        "RENDERED/nsd-00003.png: expected 6 x 6 pixels as nsd-00007.png, found 7 x 7. "
        "Render all in one size"
    )


@pytest.mark.parametrize("size", [(7, 6), (6, 7), (1025, 1025)])
def test_pictures_that_are_not_square_or_too_large_are_refused(folder, size):
    Image.fromarray(PIXELS[0]).resize(size).save(folder / FILES[0])

    assert refused(folder) == (
        "RENDERED/nsd-00007.png: expected a square of at most 1024 x 1024 pixels, "
        f"found {size[0]} x {size[1]}. The papers judge 256 x 256"
    )


def test_what_is_not_a_file_is_no_picture(folder):
    (folder / FILES[0]).unlink()
    os.mkfifo(folder / FILES[0])

    assert "none for 1 (nsd-00007)" in refused(folder)


def test_no_name_leads_out_of_the_folder(folder):
    outside = folder.parent / "outside.png"
    Image.fromarray(PIXELS[0]).save(outside)

    line = refused(folder, trials(names=["../outside", *NAMES[1:]]))

    assert "none for 1 (../outside), 1 of no image (nsd-00007.png)" in line


def test_no_folder_and_no_pictures_shown_are_wrong_usage(folder):
    with pytest.raises(UsageError) as no_folder:
        read_reconstructions(folder / "none", trials())
    with pytest.raises(UsageError) as not_kept:
        read_reconstructions(folder, trials(Absent("the folder keeps no pictures")))

    assert str(no_folder.value) == (
        f"--reconstructions: expected a folder of pictures, found no {folder / 'none'}"
    )
    assert str(not_kept.value) == (
        "--reconstructions: expected trials that keep the pictures shown, found none "
        "(the folder keeps no pictures)"
    )


def test_latents_lie_under_their_images_names(tmp_path):
    latents = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)

    file = write_latents(tmp_path, NAMES, latents, {"split": "test"})

    assert file == tmp_path / LATENTS
    with safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"split": "test"}
        assert set(opened.keys()) == set(NAMES)
        for name, z_v in zip(NAMES, latents, strict=True):
            np.testing.assert_array_equal(opened.get_tensor(name), z_v)
    # The header is JSON: nothing in the file can run.
    data = file.read_bytes()
    assert json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_latents_that_cannot_be_written_are_one_line(tmp_path):
    latents = np.zeros((3, 1000, 1000), np.float32)

    with pytest.raises(ArtifactError) as error:
        write_latents(tmp_path / "none", NAMES, latents, {})

    assert str(error.value) == (
        f"{tmp_path / 'none' / LATENTS}: expected a place to write, found "
        "No such file or directory"
    )


def test_latents_saved_nowhere_are_wrong_usage(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv",
        ["neuroflow", "evaluate", "--bundle", "b", "--trials", "t", "--save-latents"],
    )

    assert neuroflow.main() == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"neuroflow: --save-latents: expected --out, a folder, found none\n", error
    )
