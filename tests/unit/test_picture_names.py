"""One picture is one image, however its trials name it."""

import os
import shutil

import pytest

from runtime.errors import RecordingError
from runtime.estimator import BetaEstimator
from runtime.patch_dct import PatchDct
from runtime.picture_names import one_name_each, picture_file
from tests.participants import tiny_participant
from training.data.bids import open_bids
from training.dataset import open_dataset


@pytest.fixture
def stimuli(tmp_path):
    (tmp_path / "faces").mkdir()
    for name in ("cat.png", "dog.jpg", "faces/ann.png"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cat", "cat.png"),
        ("cat.png", "cat.png"),
        ("faces/ann", "faces/ann.png"),
        ("dog.jpg", "dog.jpg"),
        ("dog", None),
        ("", None),
        ("faces", None),
        ("../cat", None),
        ("a\0b", None),
        ("x" * 5000, None),
    ],
)
def test_a_name_is_that_of_a_file_with_or_without_png(stimuli, name, file):
    assert picture_file(stimuli, name) == (None if file is None else stimuli / file)


def test_a_name_of_two_pictures_is_refused(stimuli):
    (stimuli / "cat").touch()

    with pytest.raises(RecordingError) as error:
        picture_file(stimuli, "cat")

    assert str(error.value) == (
        f"{stimuli / 'cat'}: expected one picture of this name, found cat.png beside "
        "it, which is another. Rename one of the two"
    )


def test_names_of_one_file_become_one_and_all_others_stay(stimuli):
    (stimuli / "tom.png").symlink_to("cat.png")
    os.link(stimuli / "dog.jpg", stimuli / "rex.jpg")
    shown = ["cat.png", "cat", "tom.png", "./cat", "rex.jpg", "dog.jpg", "gone", "/x"]

    assert one_name_each(stimuli, shown, ()) == {
        "cat.png": "cat", "cat": "cat", "tom.png": "cat", "./cat": "cat",
        "rex.jpg": "dog.jpg", "dog.jpg": "dog.jpg", "gone": "gone", "/x": "/x",
    }  # fmt: skip
    # The name of the table is kept, by which answers are named.
    assert one_name_each(stimuli, ["cat.png", "cat"], ["tom", "dog.jpg"]) == {
        "cat.png": "tom", "cat": "tom",
    }  # fmt: skip
    # What is named in one way keeps that name, by which rows of z_v are sorted.
    for listed in ((), ["cat"], ["tom"]):
        assert one_name_each(stimuli, ["cat.png"], listed) == {"cat.png": "cat.png"}


def test_a_table_with_two_names_of_a_picture_that_has_others_is_refused(stimuli):
    (stimuli / "tom.png").symlink_to("cat.png")

    with pytest.raises(RecordingError) as error:
        one_name_each(stimuli, ["cat", "tom"], ["cat", "tom"])

    assert str(error.value) == (
        f"{stimuli / 'gallery.tsv'}: expected one line for the picture that trials "
        "show as cat and tom, found cat and tom, which are one file. Remove one of "
        "the two"
    )
    assert one_name_each(stimuli, ["cat"], ["cat", "tom"]) == {"cat": "cat"}


def rename(folder, split, change):
    """Change `stim_id` and `stim_file` of the runs of a split."""
    for file in folder.glob("sub-*/**/func/*_events.tsv"):
        head, *rows = (line.split("\t") for line in file.read_text().splitlines())
        if rows[0][head.index("split")] == split:
            for row in rows:
                named = change(row[head.index("stim_id")])
                row[head.index("stim_id")], row[head.index("stim_file")] = named
            lines = ["\t".join(cells) for cells in (head, *rows)]
            file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def leaking(tmp_path):
    """Training runs show pictures of the test: by `stim_file` here, `stim_id` there."""
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    tested = sorted(
        {
            event.stimulus_id
            for run in open_bids(folder).recording.runs
            for event in run.events
            if event.split == "test"
        }
    )
    shown = {}

    def of_the_test(name):
        of = shown.setdefault(name, tested[len(shown) % len(tested)])
        return "n/a", f"{of}.png"

    rename(folder, "train", of_the_test)
    rename(folder, "test", lambda name: (name, "n/a"))
    return folder, tested


@pytest.mark.parametrize("has_table", [True, False])
def test_a_picture_of_the_test_is_found_in_training_under_another_name(
    leaking, has_table
):
    folder, tested = leaking
    if not has_table:
        (folder / "stimuli" / "gallery.tsv").unlink()

    with pytest.raises(RecordingError) as error:
        open_bids(folder)

    assert str(error.value) == (
        f"{folder}: split: expected test pictures that no training trial shows, found "
        f"{len(tested)} in both, such as {tested[0]}. Choose other runs for the test, "
        "or say --allow-shared-pictures if that is the design"
    )


def test_training_on_the_recording_counts_it_too(leaking):
    folder, tested = leaking

    dataset = open_dataset(folder, BetaEstimator(decision_delay_s=9.0), PatchDct())

    assert dataset.shared == len(tested)


def test_a_name_that_all_trials_share_is_kept(tmp_path):
    folder = shutil.copytree(tiny_participant(), tmp_path / "bids")
    (folder / "stimuli" / "gallery.tsv").unlink()
    before = set(open_bids(folder).pictures)
    splits = ("train", "test", "calibration", "live")

    for split in splits:
        rename(folder, split, lambda name: ("n/a", f"{name}.png"))

    assert set(open_bids(folder).pictures) == {f"{name}.png" for name in before}
