"""`neuroflow play`: what is refused before anything is sent."""

import pytest

from runtime.errors import UsageError
from tests.unit.test_recording import bids  # noqa: F401  # a fixture
from verbs.play import play_recording


def test_a_label_that_no_run_s_name_may_have_is_refused_in_words(bids):  # noqa: F811
    with pytest.raises(UsageError) as refused:
        play_recording(bids, "tcp://127.0.0.1:9", runs=(), speed=None, label="a/b")

    assert str(refused.value) == (
        "--label: expected a letter or digit, then up to 127 letters, digits and ._+-, "
        "found 'sub-01_task-look_run-01_a/b'. Put - in the place of others"
    )


def test_images_that_are_no_runs_are_told_before_anything_is_sent(bids, capsys):  # noqa: F811
    (image,) = bids.rglob("*run-01_bold.nii*")
    name = image.name.replace("_bold", "_part-phase_bold")
    image.with_name(name).write_bytes(image.read_bytes())

    with pytest.raises(UsageError, match="--label"):
        play_recording(bids, "tcp://127.0.0.1:9", runs=(), speed=None, label="a/b")

    assert capsys.readouterr().err == (
        f"{bids}: images left out: 1 of phase or another part of complex values "
        f"(such as {name})\n"
    )
