"""The owner of a server and its signer's key: looked at apart, read at the end."""

import os

import pytest

from bci_bridge.chain import CHAIN
from bci_bridge.places import OUTCOMES
from bci_bridge.recording_signature import read_signature
from runtime.errors import ArtifactError, BackendError, RecordingError, UsageError
from runtime.signing_keys import make_signing_key, read_signing_key
from tests.unit.test_recording_signature import (
    signed,  # noqa: F401  # a fixture
    write,
)
from verbs import sign_recording as verb


def test_the_owner_of_a_server_looks_first_and_signs_at_the_end(tmp_path):
    make_signing_key(tmp_path / "rig.key")
    signer = verb.signer_at_start(tmp_path / "rig.key", tmp_path / "new")
    write(tmp_path / "new")
    line = verb.sign_at_end(tmp_path / "rig.key", tmp_path / "new", signer)
    nothing = verb.sign_at_end(tmp_path / "rig.key", tmp_path / "none", signer)
    (tmp_path / "rig.key").unlink()
    (tmp_path / "rig.pub").unlink()
    make_signing_key(tmp_path / "rig.key")
    with pytest.raises(ArtifactError) as caught:
        verb.sign_at_end(tmp_path / "rig.key", tmp_path / "new", signer)

    assert line == f"{tmp_path / 'new'}: 2 segments signed by rig"
    assert read_signature(tmp_path / "new").public_key == signer.public_key
    assert nothing == f"{tmp_path / 'none'}: nothing to sign"
    assert str(caught.value) == (
        f"{tmp_path / 'rig.key'}: expected the key of the start, found another. "
        "Nothing is signed."
    )
    assert verb.signer_at_start(None, None) is None


def test_the_secret_is_never_read_in_the_process_that_others_are_copies_of(
    tmp_path, monkeypatch
):
    make_signing_key(tmp_path / "rig.key")
    readers = []

    def read(file):
        readers.append(os.getpid())
        return read_signing_key(file)

    monkeypatch.setattr(verb, "read_signing_key", read)
    signer = verb.signer_at_start(tmp_path / "rig.key", tmp_path)

    assert signer.name == "rig"
    assert readers == []


def test_a_key_that_cannot_sign_is_refused_at_the_start_in_one_line(
    tmp_path,
    signed,  # noqa: F811  # the fixture
):
    make_signing_key(tmp_path / "rig.key")
    lines = []

    def refused(kind, key, recording):
        with pytest.raises(kind) as caught:
            verb.signer_at_start(key, recording)
        lines.append(str(caught.value))

    refused(UsageError, tmp_path / "rig.key", None)
    refused(BackendError, tmp_path / "none.key", tmp_path)
    (tmp_path / "rig.key").chmod(0o640)
    refused(BackendError, tmp_path / "rig.key", tmp_path)
    (tmp_path / "rig.key").chmod(0o600)
    (signed / OUTCOMES / CHAIN).unlink()
    refused(RecordingError, tmp_path / "rig.key", signed)

    assert lines == [
        "--sign-recording: expected with --log alone",
        f"{tmp_path / 'none.key'}: expected a key file, found: "
        "No such file or directory",
        f"{tmp_path / 'rig.key'}: expected a file readable by its owner alone, found "
        f"mode 0640. Run: chmod 600 {tmp_path / 'rig.key'}",
        f"{signed}: outcomes: expected the 1 segments that were signed, found 0. "
        "It was changed after it was signed.",
    ]
