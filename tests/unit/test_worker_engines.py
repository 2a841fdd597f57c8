"""A worker says what became of its engines, to who started it and to the monitor."""

import contextlib

import msgspec
import pytest

from tests.integration.served_model import write_model
from verbs import worker
from verbs.rig import rig_here
from verbs.served_model import Model

pytestmark = pytest.mark.slow


def test_a_worker_says_what_it_loaded_and_what_it_had_to_build(
    tmp_path, monkeypatch, capsys
):
    write_model(tmp_path)
    (tmp_path / "setup.json").write_text("{}")
    model = Model(
        bundle=str(tmp_path / "bundle"),
        gallery=str(tmp_path / "gallery"),
        backend="openvino",
        threads=1,
        abstain_below=0.0,
        trust=None,
        rig=rig_here("openvino", threads=1, abstain_below=0.0),
    )
    counted = []

    def run_worker(_setup, _name, opened, _rig, engines):
        """A worker without its sockets: it loads what it is told to, and ends."""
        with contextlib.ExitStack() as stack:
            opened(stack)
            counted.append(engines())

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(worker, "Setup", dict)
    monkeypatch.setattr(worker, "run_worker", run_worker)
    line = [msgspec.json.encode(model).decode(), str(tmp_path / "setup.json"), "a"]

    def started():
        assert worker.main(line) == 0
        (said,) = capsys.readouterr().err.splitlines()
        return said.partition(" f32: ")[2]

    assert started() == "0 engines from the cache, 2 built"
    assert started() == "2 engines from the cache, 0 built"
    assert counted == [
        {"loaded": 0, "built": 2, "refused": 0, "unstored": 0},
        {"loaded": 2, "built": 0, "refused": 0, "unstored": 0},
    ]
