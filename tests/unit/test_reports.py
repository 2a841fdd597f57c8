"""What a process counts goes on after its death; what it measures begins anew."""

from bci_bridge import part
from bci_bridge.histogram import Histogram
from bci_bridge.part import earlier_account, say
from bci_bridge.settings import (
    IngressReport,
    PublisherReport,
    ServeConfig,
    WorkerReport,
)
from bci_bridge.setup import Account, Setup

SLOW, FAST = Histogram().with_one(2_000_000_000), Histogram().with_one(1_000)


def test_counters_go_on_and_gauges_are_of_who_lives():
    earlier = IngressReport(
        runs=1,
        run="run-1",
        acquisitions=40,
        ack_lag=9,
        syncs=SLOW,
        uncertainty_ns={"scanner": 1},
        rejected={"RATE": 2},
    )
    now = IngressReport(
        run="run-1",
        acquisitions=41,
        ack_lag=0,
        syncs=FAST,
        uncertainty_ns={"stimulus": 2},
    )

    found = now.after(earlier)

    assert (found.runs, found.rejected) == (1, {"RATE": 2})
    assert found.syncs == FAST.after(SLOW)
    assert (found.run, found.acquisitions, found.ack_lag) == ("run-1", 41, 0)
    assert found.uncertainty_ns == {"stimulus": 2}
    assert now.after(None) == now


def test_a_publisher_says_how_far_it_has_come_itself():
    now = PublisherReport(run="run-2", answered=3, refused=1)

    found = now.after(PublisherReport(run="run-1", answered=40, refused=2))

    assert (found.run, found.answered, found.refused) == ("run-2", 3, 3)


def test_a_worker_that_stands_by_keeps_what_its_forerunner_counted():
    assert WorkerReport().after(WorkerReport(syncs=SLOW)).syncs == SLOW
    assert WorkerReport(syncs=FAST).after(None).syncs == FAST


def test_an_account_that_a_full_memory_does_not_take_ends_no_process(
    tmp_path, monkeypatch
):
    def full(path, value):
        raise OSError(28, "No space left on device")

    setup = Setup(
        config=ServeConfig(), recording=None, moment=str(tmp_path), supervisor=1
    )
    account = Account(wrote=WorkerReport(syncs=SLOW))
    with monkeypatch.context() as patch:
        patch.setattr(part, "write_whole", full)
        say(setup, "worker-a", account)
    before = earlier_account(setup, "worker-a")
    say(setup, "worker-a", account)

    assert before == Account()
    assert earlier_account(setup, "worker-a") == account
