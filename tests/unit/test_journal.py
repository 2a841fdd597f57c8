"""What a killed `send` left, seen from every instant at which it can have died."""

import os
import time

import pytest
from msgspec import structs

from bci_bridge.sources.journal import STALE_S, Journal
from bci_bridge.sources.past import Left, Past
from bci_bridge.spool import Spool
from bci_bridge.wire import encode
from runtime.errors import UsageError
from tests.scanned import plan, scanned


def spooled(folder, name="rest", *, is_finished=False):
    """What a sender leaves that has said RUN_START."""
    spool = Spool(folder)
    start = plan().start(name, scanned(0).geometry)
    spool.begin(start, "scanner", "scanner", lambda: "secret")

    filled = structs.replace(start, stream="scanner")
    spool.append(encode(filled, b""))
    if is_finished:
        spool.finish()
    spool.close()


def past(**changes):
    return Past(**{"run": "rest", "begun": 1, **changes})


def test_nothing_was_there(tmp_path):
    assert Journal(None).settled(plan()) == (Past(run="rest"), None)
    assert Journal(tmp_path / "new").settled(plan()) == (Past(run="rest"), None)


def test_a_run_under_way_is_gone_on_with(tmp_path):
    spooled(tmp_path)
    Journal(tmp_path).write(past(series="s-1"))
    found, held = Journal(tmp_path).settled(plan())

    assert found == past(series="s-1")
    assert held.run == "rest"


def test_a_run_that_was_to_begin_and_did_not_leaves_its_name_free(tmp_path):
    Journal(tmp_path).write(past(series="s-1"))

    assert Journal(tmp_path).settled(plan()) == (past(begun=0), None)


def test_the_second_run_that_was_to_begin_and_did_not(tmp_path):
    spooled(tmp_path, is_finished=True)
    Journal(tmp_path).write(past(begun=2, series="s-2", over=("s-1",)))

    assert Journal(tmp_path).settled(plan()) == (past(over=("s-1",)), None)


def test_a_run_that_ended_unnoticed_is_over(tmp_path):
    spooled(tmp_path, is_finished=True)
    Journal(tmp_path).write(past(series="s-1"))

    assert Journal(tmp_path).settled(plan()) == (past(over=("s-1",)), None)


def test_a_spool_without_its_file_is_gone_on_with(tmp_path):
    spooled(tmp_path)
    found, held = Journal(tmp_path).settled(plan())

    assert found == past()
    assert held.run == "rest"


def test_what_belongs_to_another_name_is_refused_while_it_is_unfinished(tmp_path):
    spooled(tmp_path, "task")
    with pytest.raises(UsageError, match="expected run 'rest', found run 'task' unfin"):
        Journal(tmp_path).settled(plan())


def test_what_belongs_to_another_name_and_is_finished_is_forgotten(tmp_path):
    spooled(tmp_path, "task", is_finished=True)
    Journal(tmp_path).write(Past(run="task", begun=3, over=("s-1",)))

    assert Journal(tmp_path).settled(plan()) == (Past(run="rest"), None)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"x":1}'])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, data):
    (tmp_path / "series.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"series\.json: expected what an earlier"):
        Journal(tmp_path).settled(plan())


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    (tmp_path / "series.json").mkdir()
    with pytest.raises(UsageError, match=r"series\.json: .* found Is a directory\. N"):
        Journal(tmp_path).settled(plan())


def test_names_of_any_length_are_read_again(tmp_path):
    spooled(tmp_path)
    written = past(series="s" * 1500, over=tuple(f"{n:0>1500}" for n in range(1000)))
    Journal(tmp_path).write(written)

    assert Journal(tmp_path).settled(plan())[0] == written


def test_a_complete_command_leaves_nothing(tmp_path):
    spooled(tmp_path, is_finished=True)
    Journal(tmp_path).write(past(complete=1, over=("s-1",)))
    Journal(tmp_path).forget()

    assert Journal(tmp_path).settled(plan()) == (Past(run="rest"), None)


def test_a_disk_that_takes_nothing_costs_no_run(tmp_path):
    Journal(tmp_path).write(past(series="s-1"))
    (tmp_path / "series.json.part").mkdir()
    Journal(tmp_path).write(past(over=("s-1",)))

    assert (tmp_path / "series.json").read_bytes().count(b"s-1") == 1


LEFT = Left(folder="f", names=("a", "b"))


def aged(folder, seconds):
    then_s = time.time() - seconds
    os.utime(folder / "series.json", (then_s, then_s))


def test_a_process_that_was_killed_before_its_first_volume_is_gone_on_with(tmp_path):
    Journal(tmp_path / "new").begin(Past(run="rest"), LEFT)

    assert Journal(tmp_path / "new").before(plan()) == past(begun=0, left=LEFT)


def test_what_is_left_out_is_so_while_runs_begin_and_end(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(Past(run="rest"), LEFT)
    journal.write(past(series="s-1", first=1))
    journal.write(past(over=("s-1",)))

    assert Journal(tmp_path).before(plan()) == past(over=("s-1",), left=LEFT)


def test_whose_the_files_are_is_asked_again_long_after(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(past(over=("s-1",)), LEFT)
    aged(tmp_path, STALE_S + 60)
    assert Journal(tmp_path).before(plan()) == past(over=("s-1",))

    journal.alive(0)
    assert Journal(tmp_path).before(plan()).left == LEFT


def test_a_process_says_now_and_then_that_it_is_alive(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(past(), LEFT)
    journal.alive(0)
    aged(tmp_path, STALE_S + 60)
    journal.alive(4_000_000_000)
    assert Journal(tmp_path).before(plan()).left is None

    journal.alive(6_000_000_000)
    assert Journal(tmp_path).before(plan()).left == LEFT


def test_whose_the_files_are_is_asked_again_after_the_operators_stop(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(past(over=("s-0",)), LEFT)
    journal.stop(past(series="s-1", over=("s-0",)))
    journal.write(past(over=("s-0", "s-1")))
    written = past(over=("s-0", "s-1"), is_stopped=True, stopped="s-1")

    assert Journal(tmp_path).before(plan()) == written
    # Who says that the files there belong to the run means that series, too.
    again = Journal(tmp_path).before(plan(), is_from_start=True)
    assert again.over == ("s-0",)
    assert Journal(tmp_path).settled(plan(), is_from_start=True)[0].over == ("s-0",)


def test_without_a_spool_nothing_is_known_before():
    Journal(None).begin(past(), LEFT)
    Journal(None).alive(0)

    assert Journal(None).before(plan()) == Past(run="rest")


def test_what_an_earlier_version_wrote_says_nothing_of_files(tmp_path):
    (tmp_path / "series.json").write_bytes(
        b'{"run":"rest","begun":1,"complete":0,"series":null,"over":["s-1"],'
        b'"is_stopped":false}'
    )

    assert Journal(tmp_path).before(plan()) == past(over=("s-1",))
