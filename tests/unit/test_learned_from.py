"""What a checkpoint was learned from is beside it, and another one is refused."""

import msgspec
import pytest

from runtime.errors import BundleError, CheckpointError
from runtime.estimator import BetaEstimator
from runtime.manifest import BackboneSpec
from training.learned_from import NOTE, LearnedFrom, check_note, write_note

HERE = LearnedFrom(
    subject="subj01",
    mask_sha256="a" * 64,
    estimator=BetaEstimator(decision_delay_s=8.0),
    backbone=BackboneSpec(name="patch_dct", image_size=32, patch=4),
)


def test_the_same_trials_pass_and_so_does_a_checkpoint_without_a_note(tmp_path):
    check_note(tmp_path, HERE)
    write_note(tmp_path, HERE)
    check_note(tmp_path, HERE)

    found = msgspec.json.decode((tmp_path / NOTE).read_bytes(), type=LearnedFrom)
    assert found == HERE


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"subject": "subj02"}, "subject: expected subj01 as in the trials, found sub"),
        ({"mask_sha256": "b" * 64}, "mask_sha256: expected aaa"),
        (
            {"estimator": BetaEstimator(decision_delay_s=9.0)},
            "estimator: expected betas .* 8 s after the onset .*, found .* 9 s after",
        ),
        (
            {"estimator": BetaEstimator(decision_delay_s=8.0, baseline_volumes=3)},
            "estimator: expected the trials' constants, found others",
        ),
        (
            {"backbone": BackboneSpec(name="open_clip", image_size=224, patch=14)},
            "backbone: expected patch_dct, 32 px by 4 .*, found open_clip, 224 px",
        ),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, changes, line):
    write_note(tmp_path, msgspec.structs.replace(HERE, **changes))

    with pytest.raises(CheckpointError, match=line) as caught:
        check_note(tmp_path, HERE)

    assert str(caught.value).startswith(f"{tmp_path / NOTE}: ")
    assert "\n" not in str(caught.value)


def test_a_damaged_note_is_one_line(tmp_path):
    (tmp_path / NOTE).write_text("{")

    with pytest.raises(BundleError, match=str(tmp_path / NOTE)):
        check_note(tmp_path, HERE)
