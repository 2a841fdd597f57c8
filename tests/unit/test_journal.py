"""What a killed `send` left, seen from every instant at which it can have died."""

import os
import time
from dataclasses import replace

import pytest
from msgspec import structs

from bci_bridge.sources.journal import Journal
from bci_bridge.sources.past import STALE_S, Left, Past
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


def settled(spool):
    """What an earlier process left there."""
    journal = Journal(spool, plan())
    return journal.past, journal.held


def test_nothing_was_there(tmp_path):
    assert settled(None) == (Past(run="rest"), None)
    assert settled(tmp_path / "new") == (Past(run="rest"), None)


def test_a_run_under_way_is_gone_on_with(tmp_path):
    spooled(tmp_path)
    Journal(tmp_path, plan()).write(past(series="s-1"))
    found, held = settled(tmp_path)

    assert found == past(series="s-1")
    assert held.run == "rest"


def test_a_run_that_was_to_begin_and_did_not_leaves_its_name_free(tmp_path):
    Journal(tmp_path, plan()).write(past(series="s-1"))

    assert settled(tmp_path) == (past(begun=0), None)


def test_the_second_run_that_was_to_begin_and_did_not(tmp_path):
    spooled(tmp_path, is_finished=True)
    Journal(tmp_path, plan()).write(past(begun=2, series="s-2", over=("s-1",)))

    assert settled(tmp_path) == (past(over=("s-1",)), None)


def test_a_run_that_ended_unnoticed_is_over(tmp_path):
    spooled(tmp_path, is_finished=True)
    Journal(tmp_path, plan()).write(past(series="s-1"))

    assert settled(tmp_path) == (past(over=("s-1",)), None)


def test_a_spool_without_its_file_is_gone_on_with(tmp_path):
    spooled(tmp_path)
    found, held = settled(tmp_path)

    assert found == past()
    assert held.run == "rest"


def test_what_belongs_to_another_name_is_refused_while_it_is_unfinished(tmp_path):
    spooled(tmp_path, "task")
    with pytest.raises(UsageError, match="expected run 'rest', found run 'task' unfin"):
        settled(tmp_path)


def test_what_belongs_to_another_name_and_is_finished_is_forgotten(tmp_path):
    spooled(tmp_path, "task", is_finished=True)
    other = Journal(tmp_path, plan(run="task"))
    other.write(Past(run="task", begun=3, over=("s-1",)))

    assert settled(tmp_path) == (Past(run="rest"), None)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"x":1}'])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, data):
    (tmp_path / "series.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"series\.json: expected what an earlier"):
        settled(tmp_path)


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    (tmp_path / "series.json").mkdir()
    with pytest.raises(UsageError, match=r"series\.json: .* found Is a directory\. N"):
        settled(tmp_path)


def test_names_of_any_length_are_read_again(tmp_path):
    spooled(tmp_path)
    written = past(series="s" * 1500, over=tuple(f"{n:0>1500}" for n in range(1000)))
    Journal(tmp_path, plan()).write(written)

    assert settled(tmp_path)[0] == written


def test_a_complete_command_leaves_nothing(tmp_path):
    spooled(tmp_path, is_finished=True)
    Journal(tmp_path, plan()).write(past(complete=1, over=("s-1",)))
    Journal(tmp_path, plan()).forget()

    assert settled(tmp_path) == (Past(run="rest"), None)


def test_a_disk_that_takes_nothing_costs_no_run(tmp_path):
    Journal(tmp_path, plan()).write(past(series="s-1"))
    (tmp_path / "series.json.part").mkdir()
    Journal(tmp_path, plan()).write(past(over=("s-1",)))

    assert (tmp_path / "series.json").read_bytes().count(b"s-1") == 1


HERE = "a folder"
LEFT = Left(folder=HERE, is_new_only=True, names=("a", "b"))


def killed(spool, was, left=LEFT):
    """What a process leaves that was killed there; and it said that it was alive."""
    journal = Journal(spool, plan())
    journal.begin(was, left)
    journal.alive(0)
    return journal


def found(spool, said="", folder=HERE):
    """Whether its files are left out again, and what is known of it then."""
    journal = Journal(spool, plan())
    return journal.goes_on(folder, said), journal.past


def aged(folder, seconds=STALE_S + 60):
    then_s = time.time() - seconds
    os.utime(folder / "series.json", (then_s, then_s))


@pytest.mark.parametrize("said", ["", "--new-only"])
@pytest.mark.parametrize("was", [past(begun=0), past(over=("s-1",), sent=("s-1",))])
def test_the_same_command_leaves_out_the_same_files(tmp_path, was, said):
    killed(tmp_path / "new", was)

    known = structs.replace(was, left=LEFT)
    assert found(tmp_path / "new", said) == (True, known)


def test_between_runs_the_operators_other_word_counts(tmp_path):
    killed(tmp_path, past(begun=3, over=("s-1", "s-2", "s-3"), sent=("s-1",)))

    # All that is there belongs to the runs, but for those that are complete.
    known = past(begun=3, over=("s-1",), sent=("s-1",))
    assert found(tmp_path, "--from-start") == (False, known)


def test_a_first_process_of_an_empty_folder_took_whatever_came(tmp_path):
    killed(tmp_path, past(begun=0), Left(folder=HERE))

    assert found(tmp_path, "--from-start")[0]
    assert not found(tmp_path, "--new-only")[0]


@pytest.mark.parametrize("said", ["", "--new-only", "--from-start"])
def test_in_a_run_its_files_are_what_they_were(tmp_path, said):
    spooled(tmp_path)
    was = past(series="s-1", first=1)
    killed(tmp_path, was)

    assert found(tmp_path, said) == (True, structs.replace(was, left=LEFT))


@pytest.mark.parametrize("why", ["stopped", "elsewhere", "long ago"])
@pytest.mark.parametrize("is_in_run", [True, False])
def test_a_process_that_is_gone_leaves_no_run_and_no_series(tmp_path, why, is_in_run):
    if is_in_run:
        spooled(tmp_path)
    was = past(
        begun=1 if is_in_run else 2,
        complete=0 if is_in_run else 1,
        series="s-2" if is_in_run else None,
        first=1 if is_in_run else None,
        over=("s-1", "s-3"),
        sent=("s-1",),
    )
    journal = killed(tmp_path, was)
    if why == "stopped":
        journal.stop()
    if why == "long ago":
        aged(tmp_path)
    folder = "another" if why == "elsewhere" else HERE
    sent = () if why == "elsewhere" else ("s-1",)

    for said in ("", "--new-only", "--from-start"):
        seen = Journal(tmp_path, plan())
        assert not seen.goes_on(folder, said)
        assert seen.is_gone == is_in_run
        # Names are used once; no complete run of the same folder is sent again.
        over = sent if said == "--from-start" else ()
        assert seen.past == past(begun=was.begun, over=over, sent=sent)


def test_what_is_left_out_is_so_while_runs_begin_and_end(tmp_path):
    journal = killed(tmp_path, past(begun=0))
    journal.write(past(series="s-1", first=1))
    journal.write(past(over=("s-1",)))

    assert found(tmp_path) == (True, past(over=("s-1",), left=LEFT))


def test_a_process_says_now_and_then_that_it_is_alive(tmp_path):
    journal = killed(tmp_path, past())
    aged(tmp_path)
    journal.alive(4_000_000_000)
    assert not found(tmp_path)[0]

    journal.alive(6_000_000_000)
    assert found(tmp_path)[0]


def test_a_process_that_ended_by_itself_before_any_run_was_nothing(tmp_path):
    killed(tmp_path, past(begun=0)).fail()
    assert found(tmp_path) == (False, past(begun=0))

    killed(tmp_path, past(series="s-1")).fail()
    assert found(tmp_path) == (False, past(begun=0))


def test_a_process_that_ended_by_itself_after_a_run_is_gone_on_with(tmp_path):
    spooled(tmp_path, is_finished=True)
    killed(tmp_path, past(over=("s-1",))).fail()

    assert found(tmp_path) == (True, past(over=("s-1",), left=LEFT))


def test_without_a_spool_nothing_is_known_before():
    journal = killed(None, past())
    journal.fail()
    journal.stop()

    assert found(None) == (False, Past(run="rest"))


def test_what_an_earlier_version_wrote_says_nothing_of_files(tmp_path):
    spooled(tmp_path)
    (tmp_path / "series.json").write_bytes(
        b'{"run":"rest","begun":1,"complete":0,"series":"s-1","over":[],'
        b'"is_stopped":false}'
    )

    # Its run is gone on with, but where its numbers begin is to be learned.
    assert found(tmp_path, "--from-start") == (False, past(series="s-1"))
    assert Journal(tmp_path, plan()).held.run == "rest"


def test_who_never_began_changes_nothing(tmp_path):
    spooled(tmp_path)
    was = past(series="s-1", first=1)
    killed(tmp_path, was)
    for end in (Journal.stop, Journal.fail):
        again = Journal(tmp_path, plan())
        again.goes_on(HERE, "")
        end(again)

        assert found(tmp_path) == (True, structs.replace(was, left=LEFT))


def test_an_attempt_that_fails_keeps_what_it_went_on_from(tmp_path):
    killed(tmp_path, past(begun=0))
    again = Journal(tmp_path, plan())
    again.goes_on(HERE, "")
    again.begin(again.past, again.past.left)
    again.fail()

    assert found(tmp_path) == (True, past(begun=0, left=LEFT))


def test_a_stop_says_no_more_than_was_written(tmp_path):
    spooled(tmp_path)
    journal = killed(tmp_path, past(series="s-1"))
    journal.stop()
    # What came after it, the end of a run, is still a stopped process's.
    assert Journal(tmp_path, plan()).past == past(
        series="s-1", left=LEFT, is_stopped=True
    )

    journal.write(past(over=("s-1",)))
    assert Journal(tmp_path, plan()).past.is_stopped


def test_what_was_complete_stays_so_through_several_stops(tmp_path):
    killed(tmp_path, past(over=("s-1",), sent=("s-1",))).stop()
    second = Journal(tmp_path, plan())
    assert not second.goes_on(HERE, "--new-only")
    second.begin(second.past, LEFT)
    second.stop()

    assert found(tmp_path, "--from-start")[1].over == ("s-1",)


def test_a_recording_that_was_stopped_begins_again(tmp_path):
    killed(tmp_path, past(over=("file",)), None).stop()
    journal = Journal(tmp_path, plan())
    journal.begin_again()

    assert journal.past == past()


@pytest.mark.parametrize(
    ("volumes", "has_ended", "over"),
    [(5, True, ("s-1",)), (4, True, ()), (5, False, ())],
)
def test_a_complete_run_is_one_although_the_server_lacks_its_end(
    tmp_path, volumes, has_ended, over
):
    spooled(tmp_path)
    killed(tmp_path, past(series="s-1")).stop()
    journal = Journal(tmp_path, plan(volumes=5))
    journal.held = replace(journal.held, volumes=volumes, has_ended=has_ended)
    journal.goes_on(HERE, "--from-start")

    assert journal.past.over == over
