"""The example of a stimulus program runs as its page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bci_bridge.keyfolder import make_device, make_server, read_credentials
from bci_bridge.messages import Event, RunStart, Shown
from bci_bridge.recording_reader import read_recording
from bci_bridge.sender import Sender
from tests.integration.tiny import SHAPE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "stimulus.py"
PAGE = (ROOT / "docs" / "senders.md").read_text("utf-8")
SECTION = PAGE.partition("\n## Stimulus software\n")[2].partition("\n## ")[0]
RUN = RunStart(
    run="run-1", shape=SHAPE, tr_s=1.0, expected_volumes=8, budget_s=1.0,
    pace="catchup",
)  # fmt: skip


def shown(*arguments):
    """Start the example as a stimulus host would."""
    search = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    return subprocess.Popen(
        [sys.executable, EXAMPLE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search},
    )


def keyed(folder):
    """A scanner's key and a display's, as the page makes the latter."""
    make_server(folder)
    make_device(folder, "scanner", ("scanner",))
    make_device(folder, "display", ("stimulus",))
    server = folder / "server.pub"
    return (
        read_credentials(folder / "scanner.key", server),
        (folder / "display.key", server),
    )


@pytest.mark.parametrize("has_keys", [False, True])
def test_a_stimulus_program_puts_on_record_what_was_shown(running, tmp_path, has_keys):
    credentials, keys, options = None, (), {}
    if has_keys:
        credentials, keys = keyed(tmp_path / "keys")
        options = {"keys": str(tmp_path / "keys")}
    server = running(recording=str(tmp_path / "log"), **options)
    program = shown(server.address, "run-1", *keys)  # before the run has begun
    with Sender(server.address, RUN, credentials=credentials) as scanner:
        scanner.volume(0, np.zeros(SHAPE, np.int16), 0)
        while program.poll() is None:
            scanner.pump(20)
        scanner.close(8)
    output, error = program.communicate()
    server.stop()

    records = [one.envelope.record for one in read_recording(tmp_path / "log/inputs")]
    events = [one for one in records if isinstance(one, Event)]
    reports = [one for one in records if isinstance(one, Shown)]
    assert (program.returncode, output, error) == (0, "2 trials are on record\n", "")
    assert [(one.trial_id, one.stimulus_id) for one in events] == [
        ("t-1", "bear.png"), ("t-2", "house.png"),
    ]  # fmt: skip
    assert [(one.what, one.trial_id) for one in reports] == [
        ("bear.png", "t-1"), ("house.png", "t-2"),
    ]  # fmt: skip
    began_ns = reports[0].shown_ns - round(events[0].onset_s * 1e9)
    for event, report in zip(events, reports, strict=True):
        elapsed_ns = report.shown_ns - began_ns
        assert abs(elapsed_ns - event.onset_s * 1e9) < 1000
        assert report.display_frame == pytest.approx(elapsed_ns * 60e-9, abs=1.001)
    assert {one.stream for one in (*events, *reports)} == {"stimulus"}


def test_a_refusal_is_one_line(running, tmp_path):
    _, keys = keyed(tmp_path / "keys")
    make_device(tmp_path / "keys", "eye", ("observer",))
    server = running(keys=str(tmp_path / "keys"))

    program = shown(server.address, "run-1", tmp_path / "keys" / "eye.key", keys[1])
    output, error = program.communicate(timeout=60)

    assert (program.returncode, output) == (1, "")
    assert error == "stimulus: UNAUTHORISED: key 'eye' may not be stimulus\n"


def test_the_page_shows_lines_of_the_example():
    (block,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    lines = [line.strip() for line in EXAMPLE.read_text("utf-8").splitlines()]

    assert "examples/stimulus.py" in SECTION
    wanted = [line.strip() for line in block.splitlines()]
    assert wanted == [line for line in lines if line in wanted]
