import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from bci_bridge import spool as spool_module
from bci_bridge.messages import Event, Missing, RunEnd, RunStart, Shown, Volume
from bci_bridge.spool import Spool
from bci_bridge.spool_format import Progress
from bci_bridge.wire import encode
from runtime.errors import ArtifactError, UsageError

ROOT = Path(__file__).parents[2]
START = RunStart(
    run="run-1", shape=(1, 1, 2), tr_s=1.0, expected_volumes=8, budget_s=0.5
)


def _envelope(sequence, payload=b"payloads"):
    volume = Volume(
        run="run-1",
        stream="scanner",
        sequence=sequence,
        volume_index=sequence,
        acquired_ns=0,
        dtype="i2",
        shape=(1, 1, len(payload) // 2),
    )
    return encode(volume, payload)


def _begun(folder, **options):
    spool = Spool(folder, **options)
    spool.begin(START, "scanner", "scanner", lambda: "secret")
    return spool


def _filled(folder, count, **options):
    spool = _begun(folder, **options)
    for sequence in range(count):
        assert spool.append(_envelope(sequence))
    return spool


def _sequences(spool):
    return [
        spool.read(sequence).record.sequence
        for sequence in range(spool.first, spool.next)
    ]


def test_what_was_written_is_there_after_the_process_is_not(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.test_spool import _filled\n"
        "spool = _filled(Path(sys.argv[1]), 10)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python"},
        check=False,
    )

    spool = Spool(tmp_path)

    assert done.returncode == -9
    assert _sequences(spool) == list(range(10))
    assert spool.is_unfinished
    assert spool.held.lease == "secret"
    spool.close()


def test_what_a_run_has_said_outlives_the_segments_that_said_it(tmp_path):
    header = {"run": "run-1", "stream": "scanner"}
    volume = Volume(volume_index=0, acquired_ns=77, dtype="i2", shape=(1, 1, 2))
    event = Event(trial_id="t-1", onset_s=0.0, duration_s=1.0)
    spool = _begun(tmp_path, segment_bytes=1)
    shown = Shown(what="a.png", shown_ns=7, trial_id="t-1")
    for sequence, (record, payload) in enumerate(
        [(volume, bytes(4)), (event, b""), (shown, b""), (Missing(volume_index=4), b"")]
    ):
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        filled = type(record)(**{**fields, **header, "sequence": sequence})
        spool.append(encode(filled, payload))
    spool.settle(3)
    spool.close()

    spool = Spool(tmp_path)

    assert (spool.first, spool.next) == (3, 4)
    assert spool.progress == Progress(
        volumes=5, last_index=0, last_acquired_ns=77, trials={"t-1"}, shown={"t-1"}
    )
    spool.append(encode(RunEnd(count=5, sequence=4, **header)))
    assert spool.progress.has_ended
    spool.close()


def test_the_disk_holds_no_more_than_what_the_server_lacks_and_a_segment(tmp_path):
    spool = _begun(tmp_path, segment_bytes=10_000)
    most = 0
    for sequence in range(500):
        spool.append(_envelope(sequence, bytes(1000)))
        spool.settle(sequence - 5)
        files = list(tmp_path.glob("*.spool"))
        most = max(most, sum(file.stat().st_size for file in files))

    assert most < 2 * 10_000 + 8 * 1300
    assert _sequences(spool)[-6:] == list(range(494, 500))
    spool.finish()
    assert sum(file.stat().st_size for file in tmp_path.glob("*.spool")) < 1000
    spool.close()


def test_a_finished_spool_takes_the_next_run(tmp_path):
    spool = _filled(tmp_path, 3)
    spool.finish()
    spool.close()

    spool = Spool(tmp_path)
    before = spool.is_unfinished, spool.held.start.run, spool.next
    lease = spool.begin(START, "scanner", "scanner", lambda: "another")

    assert before == (False, "run-1", 3)
    assert (lease, spool.next, spool.progress) == ("another", 0, Progress())
    spool.close()


def test_a_run_that_was_announced_without_names_of_confounds_is_gone_on_with(tmp_path):
    spool = Spool(tmp_path)
    spool.begin(START, "scanner", "scanner", lambda: "secret")
    announced = encode(structs.replace(START, stream="scanner"))
    spool.append(announced)
    spool.close()
    spool = Spool(tmp_path)
    named = structs.replace(START, confound_names=("resp",))

    lease = spool.begin(named, "scanner", "scanner", lambda: "another")

    assert lease == "secret"
    # What the server is sent, should it lack it.
    assert spool.held.start == START
    assert spool.read(0).header == announced.header
    spool.close()


def test_a_run_that_named_its_confounds_keeps_those_names(tmp_path):
    spool = Spool(tmp_path)
    named = structs.replace(START, confound_names=("resp",))
    spool.begin(named, "scanner", "scanner", lambda: "secret")
    spool.append(encode(structs.replace(named, stream="scanner")))

    with pytest.raises(UsageError) as error:
        spool.begin(START, "scanner", "scanner", lambda: "another")

    assert str(error.value) == (
        f"spool {tmp_path}: expected run 'run-1' as it was announced, found other "
        "confound_names. Go on with what it was, or name the run anew."
    )
    spool.close()


def test_one_process_at_a_time_has_a_spool(tmp_path):
    spool = _begun(tmp_path)

    with pytest.raises(UsageError) as caught:
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()

    assert str(caught.value) == (
        f"spool {tmp_path}: expected a free spool, found one that another sender has. "
        "Stop that sender or name another folder."
    )


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match="expected a folder to write to"):
        Spool(tmp_path / "file" / "spool")


@pytest.mark.parametrize("is_short", [True, False])
def test_a_full_disk_leaves_what_is_whole_and_raises_nothing(
    tmp_path, monkeypatch, is_short
):
    writev = os.writev

    def full(fd, parts):
        if is_short:
            return writev(fd, [b"".join(parts)[:20]])
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = _filled(tmp_path, 3)
    with monkeypatch.context() as disk:
        disk.setattr(spool_module.os, "writev", full)
        took = spool.append(_envelope(3))
    later = spool.append(_envelope(3))
    state = spool.state
    spool.close()
    again = Spool(tmp_path)

    assert (took, later, state) == (False, False, "DEGRADED")
    assert (_sequences(again), again.cut_bytes) == ([0, 1, 2], 0)
    again.close()


def test_a_disk_that_gives_back_something_else_is_never_believed(tmp_path):
    spool = _filled(tmp_path, 3)
    (segment,) = tmp_path.glob("*.spool")
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    with segment.open("r+b") as file:
        file.write(data)

    with pytest.raises(ArtifactError, match="expected message 2 as it was written"):
        spool.read(2)
    assert spool.read(1) == _envelope(1)
    spool.close()


def test_messages_after_damage_are_not_gone_on_with(tmp_path):
    _filled(tmp_path, 9, segment_bytes=1).close()
    segments = sorted(tmp_path.glob("*.spool"))
    data = bytearray(segments[4].read_bytes())
    data[-1] ^= 1
    segments[4].write_bytes(data)

    spool = Spool(tmp_path)

    assert spool.cut_bytes > 0
    assert _sequences(spool) == list(range(spool.next))
    assert 0 < spool.next < 9
    spool.close()
    again = Spool(tmp_path)
    assert (again.next, again.cut_bytes) == (spool.next, 0)
    again.close()


def test_a_new_run_that_was_cut_off_while_it_began_leaves_the_spool_usable(tmp_path):
    _filled(tmp_path, 2).close()
    (tmp_path / "00000009.spool").write_bytes(b"NFn1 torn")

    spool = Spool(tmp_path)

    assert _sequences(spool) == [0, 1]
    assert not (tmp_path / "00000009.spool").exists()
    spool.close()
