"""`serve --sign-recording`: signed at the end, and by a secret that no peer is near."""

import re
import signal
import time
from pathlib import Path

import pytest

from bci_bridge.chain_signature import SIGNATURE
from runtime.signing_keys import make_signing_key, read_signing_key
from tests.integration.served_model import (
    served,
    serving,
    write_model,
    write_recording,
)
from tests.integration.test_replay_command import said
from tests.processes import children

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("signing")
    shape = write_model(out)
    write_recording(out / "short", shape, runs=("01",))
    make_signing_key(out / "rig.key")
    make_signing_key(out / "other.key")
    return out


def holds(pid, wanted):
    """Whether a process has these bytes anywhere in its own memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not found:
                continue
            start, end = (int(text, 16) for text in found.groups())
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, OverflowError):
                continue
            if any(one in data for one in wanted):
                return True
    return False


def test_a_recording_is_signed_at_each_orderly_end_and_at_no_other(made, tmp_path):
    log, key = tmp_path / "log", made / "rig.key"
    flags = ["--log", log, "--sign-recording", key]
    status, error = served(made, *flags, "--rehearse", made / "short", "--speed", "20")
    check = ["verify-recording", log, "--trust", made / "rig.pub"]
    first = said(*check)
    stranger = said("verify-recording", log, "--trust", made / "other.pub")
    with serving(made, *flags[:2], "--ready-file", tmp_path / "a") as unsigned:
        wait_for(unsigned, tmp_path / "a")
        unsigned.send_signal(signal.SIGTERM)
        unsigned.communicate(timeout=30)
    stale, plain = said(*check), said("verify-recording", log)
    with serving(made, *flags, "--ready-file", tmp_path / "b") as again:
        wait_for(again, tmp_path / "b")
        again.send_signal(signal.SIGTERM)
        _, last_words = again.communicate(timeout=30)
    renewed = said(*check)

    assert status == 0, error
    assert f"neuroflow: {log}: 2 segments signed by rig\n" in error
    assert (log / SIGNATURE).stat().st_mode & 0o777 == 0o600
    assert (first[0], first[1].splitlines()[2].endswith(", verified")) == (0, True)
    assert stranger[0] == 1
    assert "expected a signature by other, found one by key " in stranger[2]
    assert (stale[0], stale[2].count("\n")) == (1, 1)
    assert "expected no segment that rig has not signed, found " in stale[2]
    assert plain[0] == 0
    assert "not signed: added or recorded afterwards" in plain[1]
    assert again.returncode == 0, last_words
    assert "segments signed by rig" in last_words
    assert (renewed[0], renewed[1].count("not signed")) == (0, 0), renewed


def wait_for(process, ready):
    while not ready.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_no_process_of_a_server_holds_the_secret(made, tmp_path):
    secret = read_signing_key(made / "rig.key")
    spelled = [secret.secret_key.encode(), bytes.fromhex(secret.secret_key)]
    flags = ["--log", tmp_path / "log", "--sign-recording", made / "rig.key"]
    with serving(made, *flags, "--ready-file", tmp_path / "ready") as process:
        wait_for(process, tmp_path / "ready")
        pids = [process.pid, *children(process.pid)]

        assert len(pids) == 5
        # That the search finds what is there: the public half is kept until the end.
        assert holds(process.pid, [secret.public_key.encode()])
        assert [pid for pid in pids if holds(pid, spelled)] == []


def test_a_killed_server_signs_nothing(made, tmp_path):
    log = tmp_path / "log"
    flags = ["--log", log, "--sign-recording", made / "rig.key"]
    with serving(made, *flags, "--ready-file", tmp_path / "ready") as process:
        wait_for(process, tmp_path / "ready")
        process.kill()
        process.wait()

    assert not (log / SIGNATURE).exists()
    assert said(
        "serve", "--bundle", "x", "--gallery", "x", "--sign-recording", "x"
    ) == (
        2,
        "",
        "neuroflow: --sign-recording: expected with --log alone\n",
    )
