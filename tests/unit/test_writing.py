"""A disk that is full is one line that names what was written, and leaves nothing."""

import errno
import os
import resource

import numpy as np
import pytest
from safetensors import SafetensorError

from runtime.errors import ArtifactError
from runtime.gallery import write_gallery
from runtime.writing import writing
from tests.models import export, random_model

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL_TO_RUST = SafetensorError(
    "Error while serializing: I/O error: No space left on device (os error 28)"
)


def raises(error):
    def failing(*_arguments, **_options):
        raise error

    return failing


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (FULL, "No space left on device"),
        (FULL_TO_RUST, "No space left on device"),
        (OSError("odd"), "odd"),
        (SafetensorError("InvalidOffset(a)"), "InvalidOffset(a)"),
    ],
    ids=["system", "safetensors", "without a reason", "without a number"],
)
def test_what_refused_is_said_in_the_systems_words(tmp_path, error, found):
    with pytest.raises(ArtifactError) as caught, writing(tmp_path / "out"):
        raise error

    assert str(caught.value) == (
        f"{tmp_path}/out: expected a place to write, found {found}"
    )


def test_a_gallery_that_finds_no_room_is_one_line_and_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(ArtifactError) as caught:
            write_gallery(
                tmp_path / "gallery",
                latents=np.ones((2, 8, 512), np.float32),
                ids=["a", "b"],
                labels=["x", "y"],
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert str(caught.value) == (
        f"{tmp_path}/gallery: expected a place to write, found File too large"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("export.graphs.WeightStore.place", FULL),
        ("export.assemble.write_graph", FULL),
        ("export.package.save_file", FULL_TO_RUST),
        ("export.package.write_manifest", FULL),
        ("export.package._sync", FULL),
    ],
)
def test_an_export_that_finds_no_room_is_one_line_and_nothing(
    tmp_path, monkeypatch, where, error
):
    monkeypatch.setattr(where, raises(error))

    with pytest.raises(ArtifactError) as caught:
        export(random_model(), tmp_path / "bundle")

    assert str(caught.value) == (
        f"{tmp_path}/bundle: expected a place to write, found No space left on device"
    )
    assert list(tmp_path.iterdir()) == []
