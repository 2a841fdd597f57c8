"""What docs/scanners.md tells an operator to type is taken."""

import re
import shlex
from pathlib import Path

import neuroflow
import verbs.doctor
import verbs.send
import verbs.send_trigger

PAGE = Path(__file__).parents[2] / "docs" / "scanners.md"
ENDS = [
    *((verbs.send, name) for name in vars(verbs.send) if name.startswith("send_")),
    (verbs.send_trigger, "send_trigger"),
    (verbs.doctor, "examine_rig"),
]


def test_every_command_of_the_page_parses(monkeypatch):
    begun = []
    for module, name in ENDS:
        monkeypatch.setattr(
            module, name, lambda *_, name=name, **__: begun.append(name)
        )
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    for line in lines:
        neuroflow.app.cli(prog="neuroflow", args=shlex.split(line, comments=True)[1:])

    assert len(begun) == len(lines) > 10
    assert {"send_dicom_store", "send_trigger", "examine_rig"} <= set(begun)
