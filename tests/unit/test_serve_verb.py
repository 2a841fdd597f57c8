"""What `serve` says at its end of acquisitions that nobody answered."""

import pytest

import neuroflow
from bci_bridge.settings import ServeReport
from tests.integration.served_model import write_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    write_model(out)
    return out


@pytest.mark.parametrize(
    ("left", "is_logged", "status", "said"),
    [
        (0, True, 0, ""),
        (3, True, 1, "3 without; they are on record in {log}: serve on it again\n"),
        (3, False, 1, "3 without; they are lost\n"),
    ],
)
def test_a_server_that_leaves_acquisitions_unanswered_fails(
    model, tmp_path, monkeypatch, capsys, left, is_logged, status, said
):
    report = ServeReport(
        runs=1, outcomes={}, rejected={}, recording="ON", unanswered=left
    )
    monkeypatch.setattr("verbs.serve.serve_supervised", lambda *_, **__: report)
    log, folders = tmp_path / "log", [model / "bundle", model / "gallery"]
    line = ["neuroflow", "serve", "--bundle", folders[0], "--gallery", folders[1]]
    line += ["--log", log] if is_logged else []
    monkeypatch.setattr("sys.argv", [str(word) for word in line])

    assert neuroflow.main() == status

    error = capsys.readouterr().err
    expected = (
        "neuroflow: serve: expected an outcome for every acquisition of the last run, "
        "found "
    )
    assert error.endswith(expected + said.format(log=log) if left else "log ON\n")
