"""What a log has lost is told once, and stays on the pages for as long as it is so."""

import contextlib
import os

from bci_bridge.examination import examine
from bci_bridge.metrics import metrics_text
from bci_bridge.places import held_places
from bci_bridge.settings import ServeConfig
from bci_bridge.setup import Account, path_of, write_whole
from bci_bridge.supervisor import Supervisor
from bci_bridge.unread import UnreadTold, unread_line
from bci_bridge.vitals import Process, what_is_degraded
from tests.healthy import CONFIG, NOW, vitals


def test_a_loss_is_told_once_and_again_where_more_is_lost():
    told = UnreadTold()
    first = told.news({"outcomes": 3})
    again = told.news({"outcomes": 3, "inputs": 1})
    less, more = told.news({"outcomes": 1}), told.news({"outcomes": 5})

    assert first == [unread_line("outcomes", 3)]
    assert again == [unread_line("inputs", 1)]
    assert (less, more) == ([], [unread_line("outcomes", 5)])
    assert first[0].startswith(
        "outcomes: expected every message of the log, found 3 lost or damaged. "
    )


def test_a_server_whose_log_has_lost_something_is_degraded_and_counts_it():
    publisher = Process("publisher", None, NOW, unread={"outcomes": 3})
    found = vitals(publisher=publisher)

    assert f"publisher: {unread_line('outcomes', 3)}" in what_is_degraded(found, CONFIG)
    text = metrics_text(found, CONFIG)
    assert (
        'neuroflow_log_unread_messages{process="publisher",log="outcomes"} 3\n' in text
    )
    assert "log_unread_messages{" not in metrics_text(vitals(), CONFIG)


def test_a_supervisor_tells_what_its_processes_could_not_read(tmp_path):
    """Two workers and the publisher follow the same log: one line, not three."""
    lost = {"publisher": 3, "worker-a": 3, "worker-b": 2}
    with held_places(tmp_path) as places:
        server = Supervisor(ServeConfig(address="tcp://127.0.0.1:*"), places, ("x",))
        with contextlib.ExitStack() as stack:
            stack.callback(server.kill)
            before = server.losses()
            for name, count in lost.items():
                account = Account(unread={"outcomes": count})
                write_whole(path_of(places.moment, name, "account"), account)
            first, second = server.losses(), server.losses()
            found = {
                one.name: one.unread
                for one in examine(places, os.getpid(), NOW).processes
            }

    assert (before, first, second) == ([], [unread_line("outcomes", 3)], [])
    assert found["publisher"] == {"outcomes": 3}
    assert found["worker-b"] == {"outcomes": 2}
    assert found["ingress"] == {}
