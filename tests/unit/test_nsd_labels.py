"""Categories of NSD's pictures from a table: by picture, and what is refused."""

import numpy as np
import pytest

from runtime.errors import RecordingError
from tests.nsd_folder import STIMULI, write_nsd
from training.data.nsd import open_nsd, prepare_nsd
from training.data.nsd_labels import read_labels
from training.data.nsd_latents import latents_of_backbone
from training.data.store import open_trials
from training.visual.backbone import PatchDctBackbone

TABLE = "picture\tcategory\n7\tcat\n0\thouse\n\n12\tcat\n3\tdog\n"


def table(tmp_path, text):
    (tmp_path / "labels.tsv").write_text(text)
    return tmp_path / "labels.tsv"


def test_each_picture_has_its_own_whatever_the_order(tmp_path):
    file = table(tmp_path, TABLE)

    assert read_labels(file, np.array([0, 12, 3])) == ("house", "cat", "dog")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "expected the columns picture and category, .* found none"),
        ("image\tcategory\n", "found image and category"),
        ("x" * 1000, "found x{60}$"),
        (
            TABLE + "8\n",
            "line 6: expected a picture's number and its category, found 8",
        ),
        (TABLE + "eight\tcat\n", "line 6: .* found eight cat"),
        (TABLE + "7\tdog\n", "one category a picture, found cat and dog of picture 7"),
        ("picture\tcategory\n7\tcat\n", "all 2 pictures .* none of 1, picture 0 among"),
    ],
)
def test_another_table_is_refused_in_one_line(tmp_path, text, line):
    with pytest.raises(RecordingError, match=line) as caught:
        read_labels(table(tmp_path, text), np.array([7, 0]))

    assert "\n" not in str(caught.value)


def test_no_file_and_no_text_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="no file that can be read as text"):
        read_labels(tmp_path / "none.tsv", np.array([0]))
    (tmp_path / "labels.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordingError, match="no file that can be read as text"):
        read_labels(tmp_path / "labels.tsv", np.array([0]))


def test_prepared_trials_carry_them(tmp_path):
    write_nsd(tmp_path / "nsd")
    trials = open_nsd(tmp_path / "nsd", 2)
    rows = (f"{k}\tkind {k % 3}" for k in range(60))
    file = table(tmp_path, "picture\tcategory\n" + "\n".join(rows))
    latents = latents_of_backbone(PatchDctBackbone(), tmp_path / "nsd" / STIMULI)

    prepare_nsd(
        trials, 2, tmp_path / "out", "train", latents,
        labels=read_labels(file, trials.pictures),
    )  # fmt: skip

    manifest = open_trials(tmp_path / "out").manifest
    for name, label in zip(manifest.image_ids, manifest.labels, strict=True):
        assert label == f"kind {int(name.removeprefix('nsd-')) % 3}"
