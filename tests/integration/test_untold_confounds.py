"""A bundle that asks for confounds refuses a player that tells none."""

import pytest

from bci_bridge.messages import RunStart, Volume
from bci_bridge.places import INPUTS
from bci_bridge.recording_reader import read_recording
from bci_bridge.sources.driver import send_runs
from runtime.errors import PeerError
from tests.integration.served_model import write_recording
from tests.integration.tiny import SHAPE, MeanDecoder
from tests.scanned import Listed, plan, scanned
from verbs.play import play_recording


class Asking(MeanDecoder):
    """One whose bundle asks for breathing."""

    told_confounds = ("resp",)

    def add_volume(self, volume_index, volume, *, confounds=None, **more):
        assert set(confounds) == {"resp"}
        return super().add_volume(volume_index, volume, **more)


def test_a_player_without_them_is_refused_before_any_volume(running, tmp_path):
    recording, log = tmp_path / "recording", tmp_path / "log"
    write_recording(recording, SHAPE, volumes=4, runs=("01",))
    (run,) = recording.rglob("*_bold.nii.gz")
    table = run.name.replace("_bold.nii.gz", "_desc-confounds_timeseries.tsv")
    run.with_name(table).write_text("resp\tfd\n" + "0.5\t0\n" * 4)
    server = running(Asking(), recording=str(log))

    for told in ((), ("fd",)):
        with pytest.raises(PeerError) as error:
            play_recording(
                recording, server.address, runs=(), speed=None, confounds=told
            )
        assert str(error.value) == (
            "WRONG_BUNDLE: confounds: expected resp with every volume, as the bundle "
            "asks, found a sender that tells no resp. Tell them (play --confounds), or "
            "serve a bundle that asks for none"
        )
    play_recording(recording, server.address, runs=(), speed=None, confounds=("resp",))

    report = server.stop()
    said = [one.envelope.record for one in read_recording(log / INPUTS)]
    assert [one.confound_names for one in said if isinstance(one, RunStart)] == [
        ("resp",)
    ]
    assert sum(isinstance(one, Volume) for one in said) == 4
    assert report.outcomes["VolumeOutcome"] == 4
    assert report.unused == {}


def test_a_source_has_none_and_is_refused_before_any_volume(running, tmp_path):
    server = running(Asking(), recording=str(tmp_path / "log"))
    source = Listed(scanned(number) for number in range(5))
    with pytest.raises(PeerError, match="WRONG_BUNDLE: confounds: expected resp with"):
        send_runs(source, plan(), server.address, tell=print, spool=tmp_path / "spool")

    assert server.stop().runs == 0
    assert [path.name for path in (tmp_path / "spool").glob("*.spool")] == []
