"""A file of weights that is asked for by name is looked at before anything else."""

import pytest

from runtime.errors import ArtifactError
from verbs.evaluate_bundle import evaluate_bundle


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04N."])
def test_a_named_file_that_cannot_be_used_ends_it_before_the_work(tmp_path, content):
    file = tmp_path / "nope.pt"
    if content is not None:
        file.write_bytes(content)

    # There is no bundle either, which would be met next.
    with pytest.raises(ArtifactError, match=r"--weights clip=.*nope\.pt: ") as caught:
        evaluate_bundle(
            tmp_path / "none",
            recording=tmp_path,
            trials=None,
            split="test",
            out=None,
            weights=[f"clip={file}"],
        )

    assert "\n" not in str(caught.value)
