"""What a killed `send` left, seen from every instant at which it can have died."""

import pytest
from msgspec import structs

from bci_bridge.sources.journal import Journal
from bci_bridge.sources.plan import Past
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
