"""An outage lasts from the death that began it to the next sign of life."""

from bci_bridge.histogram import Histogram
from bci_bridge.outages import Outages

MS = 1_000_000


def test_a_place_that_nobody_left_had_no_outage():
    found = Outages()
    found.look("ingress", restarts=0, started_ns=0, last_ns=None)
    found.look("ingress", restarts=0, started_ns=0, last_ns=50 * MS)

    assert found.lengths == {}


def test_an_outage_ends_with_the_first_sign_of_life_and_is_counted_once():
    found = Outages()
    found.look("ingress", restarts=0, started_ns=0, last_ns=90 * MS)
    found.look("ingress", restarts=1, started_ns=100 * MS, last_ns=None)
    during = found.lengths
    found.look("ingress", restarts=1, started_ns=100 * MS, last_ns=130 * MS)
    found.look("ingress", restarts=1, started_ns=100 * MS, last_ns=900 * MS)

    assert during == {}
    assert found.lengths == {"ingress": Histogram().with_one(30 * MS)}


def test_a_replacement_that_dies_before_it_lives_does_not_end_an_outage():
    found = Outages()
    for death in (1, 2, 3):
        found.look("ingress", restarts=death, started_ns=death * MS, last_ns=None)
    found.look("ingress", restarts=3, started_ns=3 * MS, last_ns=11 * MS)

    assert found.lengths == {"ingress": Histogram().with_one(10 * MS)}


def test_each_place_has_its_own():
    found = Outages()
    found.look("ingress", restarts=1, started_ns=0, last_ns=2 * MS)
    found.look("worker-a", restarts=1, started_ns=0, last_ns=None)
    found.look("worker-a", restarts=1, started_ns=0, last_ns=4_000 * MS)
    found.look("ingress", restarts=2, started_ns=5_000 * MS, last_ns=5_003 * MS)

    assert found.lengths == {
        "ingress": Histogram().with_one(2 * MS).with_one(3 * MS),
        "worker-a": Histogram().with_one(4_000 * MS),
    }
