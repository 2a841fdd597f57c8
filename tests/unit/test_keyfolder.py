"""The folder of keys on disk: modes, damage, and changes that survive each other."""

import os
import stat
import threading
from datetime import UTC, datetime

import pytest

from bci_bridge.keyfolder import (
    make_device,
    make_server,
    read_allow_list,
    read_credentials,
    read_key_pair,
    revoke_device,
    version_of,
)
from runtime.errors import ArtifactError, UsageError

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    make_device(tmp_path / "keys", "scanner", ("scanner",))
    return tmp_path / "keys"


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_readable_by_their_owner_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        make_device(tmp_path / "keys", "scanner", ("scanner",))
    finally:
        os.umask(before)

    found = {file.name: _mode(file) for file in (tmp_path / "keys").iterdir()}
    assert found == {
        "server.key": 0o600,
        "scanner.key": 0o600,
        "allowed.json": 0o600,
        "server.pub": 0o644,
    }
    assert _mode(tmp_path / "keys") == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610])
def test_a_secret_that_others_can_read_is_refused_with_the_remedy(folder, mode):
    key = folder / "scanner.key"
    key.chmod(mode)

    with pytest.raises(ArtifactError) as caught:
        read_credentials(key, folder / "server.pub")

    assert str(caught.value) == (
        f"{key}: expected a file readable by its owner alone, found mode {mode:04o}. "
        f"Run: chmod 600 {key}"
    )


def test_a_list_or_folder_that_others_can_write_is_refused(folder):
    file = folder / "allowed.json"
    file.chmod(0o620)
    with pytest.raises(ArtifactError) as of_file:
        read_allow_list(folder)
    file.chmod(0o600)
    folder.chmod(0o770)
    with pytest.raises(ArtifactError) as of_folder:
        read_allow_list(folder)

    assert str(of_file.value) == (
        f"{file}: expected a file writable by its owner alone, found mode 0620. "
        f"Run: chmod go-w {file}"
    )
    assert str(of_folder.value) == (
        f"{folder}: expected a folder writable by its owner alone, found mode 0770. "
        f"Run: chmod go-w {folder}"
    )


def test_a_public_key_of_another_secret_is_refused(folder):
    make_device(folder, "other", ("observer",))
    key = folder / "scanner.key"
    mine, other = read_key_pair(key), read_key_pair(folder / "other.key")
    key.write_text(key.read_text().replace(mine.public_key, other.public_key))

    with pytest.raises(ArtifactError, match="a public key that belongs to the secret"):
        read_key_pair(key)


def test_what_is_not_a_plain_file_is_refused_without_waiting_for_it(folder):
    fifo = folder / "fifo.key"
    os.mkfifo(fifo, 0o600)

    with pytest.raises(ArtifactError, match="expected a plain file"):
        read_key_pair(fifo)


def test_a_missing_file_and_a_missing_folder_are_one_clear_line(tmp_path):
    with pytest.raises(ArtifactError) as of_file:
        read_key_pair(tmp_path / "no.key")
    with pytest.raises(ArtifactError) as of_folder:
        read_allow_list(tmp_path / "none")

    assert str(of_file.value) == (
        f"{tmp_path / 'no.key'}: expected a key file, found: No such file or directory"
    )
    assert str(of_folder.value) == (
        f"{tmp_path / 'none'}: expected a folder of keys, "
        "found: No such file or directory"
    )


def test_one_key_file_without_the_other_is_wrong_usage(folder):
    assert read_credentials(None, None) is None
    with pytest.raises(UsageError) as caught:
        read_credentials(folder / "scanner.key", None)

    assert str(caught.value) == (
        "--key and --server-key: expected both or neither, found one"
    )


def test_a_server_key_is_not_replaced_by_mistake(folder):
    before = (folder / "server.key").read_bytes()

    with pytest.raises(UsageError, match="expected no server key, found one"):
        make_server(folder)
    make_device(folder, "other", ("observer",))

    assert (folder / "server.key").read_bytes() == before


def test_a_refused_change_changes_nothing(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    for name, roles in (("scanner", ("scanner",)), ("../x", ("scanner",)), ("x", ())):
        with pytest.raises(UsageError):
            make_device(folder, name, roles)
    with pytest.raises(UsageError):
        revoke_device(folder, "nobody", NOW)

    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == ["keys"]


def test_rotation_makes_a_new_secret_and_keeps_the_old_key_refused(folder):
    old = read_key_pair(folder / "scanner.key")
    revoke_device(folder, "scanner", NOW)
    make_device(folder, "scanner", ("scanner",))
    new = read_key_pair(folder / "scanner.key")

    assert list(read_allow_list(folder).in_force()) == [new.public_key]
    assert new.public_key != old.public_key


def test_keys_made_at_once_are_all_kept(folder):
    makers = [
        threading.Thread(target=make_device, args=(folder, f"d{i}", ("observer",)))
        for i in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()

    names = {device.name for device in read_allow_list(folder).devices}
    assert names == {"scanner", *(f"d{i}" for i in range(8))}


def test_every_change_of_the_list_can_be_seen_from_outside(folder):
    seen = [version_of(folder)]
    revoke_device(folder, "scanner", NOW)
    seen.append(version_of(folder))
    (folder / "allowed.json").unlink()
    seen.append(version_of(folder))

    assert len(set(seen)) == 3
