"""The example of a systemd unit is one that systemd takes; its command exists."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bci_bridge.settings import ServeConfig

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "examples" / "neuroflow.service"
TEXT = UNIT.read_text("utf-8")


def setting(name):
    return re.findall(rf"^{name}=(.*(?:\\\n.*)*)$", TEXT, re.MULTILINE)


def test_the_command_has_only_flags_that_exist():
    (command,) = setting("ExecStart")
    words = command.replace("\\\n", " ").split()
    known = (ROOT / "tests" / "golden" / "help" / "serve.txt").read_text("utf-8")

    assert words[0].endswith("/bin/neuroflow")
    assert words[1] == "serve"
    assert {word for word in words if word.startswith("--")} <= set(
        re.findall(r"--[a-z-]+", known)
    )


def test_systemd_waits_for_the_supervisor_and_watches_it():
    assert setting("Type") == ["notify"]
    assert setting("NotifyAccess") == ["main"]
    assert setting("KillMode") == ["mixed"]
    # A hung process must be replaced before the whole server is.
    assert float(setting("WatchdogSec")[0]) > ServeConfig().hang_s


def test_what_was_spilt_to_memory_outlives_the_service():
    assert not setting("DynamicUser")
    assert not setting("RemoveIPC")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
        ("CapabilityBoundingSet", ""),
        ("UMask", "0077"),
    ],
)
def test_the_service_may_do_no_more_than_it_needs(name, value):
    assert setting(name) == [value]


def analyzed(*arguments):
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("no systemd-analyze")
    done = subprocess.run(
        [command, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_systemd_finds_no_fault(tmp_path):
    unit = tmp_path / UNIT.name
    # Where it is installed is the reader's affair.
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", TEXT))

    assert analyzed("verify", "--man=no", unit) == (0, "")


@pytest.mark.slow
def test_systemd_finds_it_little_exposed():
    status, said = analyzed("security", "--offline=yes", "--no-pager", UNIT)
    if "offline" in said and status != 0:
        pytest.skip("systemd-analyze is too old to judge a file")

    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert float(found[1]) <= 2.0
