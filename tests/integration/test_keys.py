"""`neuroflow keys`, and the flags that use what it makes."""

import json
import stat

import pytest
from neuroflow_client import Client, KeyFileError

from bci_bridge.keyfolder import make_device, read_key_pair
from tests.integration.test_command_line import said

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


def _keys(capsys, monkeypatch, *arguments):
    """Run the verb in this process; return status, standard output and error."""
    import neuroflow

    monkeypatch.setattr("sys.argv", ["neuroflow", "keys", *map(str, arguments)])
    status = neuroflow.main()
    return status, *capsys.readouterr()


def test_keys_are_made_listed_and_revoked_without_a_secret_in_sight(
    folder, capsys, monkeypatch
):
    made = _keys(capsys, monkeypatch, "make", "--folder", folder,
                 "--name", "mr", "--roles", "scanner", "stimulus")  # fmt: skip
    first = _keys(capsys, monkeypatch, "list", "--folder", folder)
    gone = _keys(capsys, monkeypatch, "revoke", "--folder", folder, "--name", "mr")
    second = _keys(capsys, monkeypatch, "list", "--folder", folder)
    as_json = _keys(capsys, monkeypatch, "list", "--folder", folder, "--json")

    pairs = [read_key_pair(folder / name) for name in ("mr.key", "server.key")]
    public = pairs[0].public_key
    assert made == (
        0,
        "",
        f"mr: carry {folder / 'mr.key'} and {folder / 'server.pub'} to the device\n",
    )
    assert gone == (0, "", "mr: revoked\n")
    assert first[1].split() == ["mr", "scanner,", "stimulus", public, "in", "force"]
    assert second[1].split()[4] == "revoked"
    (listed,) = json.loads(as_json[1])
    assert (listed["name"], listed["public_key"]) == ("mr", public)
    for _, out, error in (made, first, gone, second, as_json):
        for pair in pairs:
            assert pair.secret_key not in out + error


def test_make_without_a_name_makes_the_servers_key(folder, capsys, monkeypatch):
    status, out, error = _keys(capsys, monkeypatch, "make", "--folder", folder)

    assert (status, out, error) == (0, "", f"{folder}: server key made\n")
    assert stat.S_IMODE((folder / "server.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["make", "--name", "a"],
            "--roles: expected one or more of scanner, stimulus, observer, operator, "
            "found none",
        ),
        (
            ["make", "--roles", "scanner"],
            "--roles: expected with make and --name alone",
        ),
        (
            ["list", "--name", "a"],
            "--name: expected with make and revoke alone, found list",
        ),
        (
            ["revoke", "--name", "a", "--json"],
            "--json: expected with list alone, found revoke",
        ),
        (["make", "--json"], "--json: expected with list alone, found make"),
        (["revoke"], "--name: expected the device to revoke, found none"),
        (
            ["make", "--name", "server", "--roles", "scanner"],
            "--name: expected a device, found 'server'",
        ),
        (
            ["make", "--name", "../a", "--roles", "scanner"],
            "--name: expected a letter or digit, then up to 63 letters, digits, _ and "
            "-, found '../a'. Put - in the place of others",
        ),
    ],
)
def test_wrong_usage_is_one_clear_line(folder, capsys, monkeypatch, arguments, line):
    found = _keys(capsys, monkeypatch, *arguments, "--folder", folder)

    assert found == (2, "", f"neuroflow: {line}\n")


def test_a_damaged_folder_is_one_clear_line(folder, capsys, monkeypatch):
    make_device(folder, "mr", ("scanner",))
    (folder / "allowed.json").write_text("{}")

    assert _keys(capsys, monkeypatch, "list", "--folder", folder) == (
        1,
        "",
        f"neuroflow: {folder / 'allowed.json'}: damaged: "
        "Object missing required field `version`\n",
    )


def test_the_flags_that_take_keys_refuse_what_is_open_to_others(folder):
    make_device(folder, "mr", ("scanner",))
    key, public = folder / "mr.key", folder / "server.pub"
    key.chmod(0o644)
    (folder / "server.key").chmod(0o640)
    flags = ["--key", key, "--server-key", public]
    line = (
        f"neuroflow: {key}: expected a file readable by its owner alone, "
        f"found mode 0644. Run: chmod 600 {key}\n"
    )

    assert said("serve", "--bundle", "x", "--gallery", "x", "--keys", folder) == (
        1,
        line.replace("mr.key", "server.key").replace("0644", "0640"),
    )
    assert said("play", "x", *flags) == (1, line)
    assert said("watch", *flags) == (1, line)
    assert said("watch", "--key", key) == (
        2,
        "neuroflow: --key and --server-key: expected both or neither, found one\n",
    )


def test_serving_a_network_without_keys_is_one_clear_line():
    flags = ["--bundle", "x", "--gallery", "x", "--address", "tcp://10.0.0.5:5760"]

    assert said("serve", *flags) == (
        2,
        "neuroflow: address 'tcp://10.0.0.5:5760': expected a loopback address, "
        "found 10.0.0.5. Other interfaces need keys, which this server does not have. "
        "Make them with: neuroflow keys make, and give --keys\n",
    )


def test_the_client_refuses_a_key_file_as_clearly_as_the_server_does(folder):
    make_device(folder, "eye", ("observer",))
    key, public = folder / "eye.key", folder / "server.pub"
    secret = read_key_pair(key).secret_key

    def refusal(key_file, server_key_file):
        with pytest.raises(KeyFileError) as caught:
            Client(
                "tcp://127.0.0.1:1", key_file=key_file, server_key_file=server_key_file
            )
        return str(caught.value)

    alone = refusal(str(key), None)
    missing = refusal(str(folder / "no.key"), str(public))
    swapped = refusal(str(public), str(key))
    text = key.read_text()
    key.write_text(text.replace(secret, secret[:-1]))
    short = refusal(str(key), str(public))
    key.write_text(text)
    key.chmod(0o604)
    open_to_others = refusal(str(key), str(public))

    assert alone == "key_file and server_key_file: expected both or neither, found one"
    assert missing == (
        f"{folder / 'no.key'}: expected a key file, found: No such file or directory"
    )
    assert swapped == (
        f"{public}: expected a file readable by its owner alone, found mode 0644. "
        f"Run: chmod 600 {public}"
    )
    assert short == f"{key}: damaged: expected keys of 40 characters of Z85"
    assert open_to_others == (
        f"{key}: expected a file readable by its owner alone, found mode 0604. "
        f"Run: chmod 600 {key}"
    )
    for line in (alone, missing, swapped, short, open_to_others):
        assert secret[:30] not in line
