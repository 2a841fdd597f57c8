"""Words to systemd arrive as it reads them; the watchdog is kicked by life alone."""

import errno
import socket

import msgspec
import pytest

from bci_bridge import oversight
from bci_bridge.children import Child
from bci_bridge.histogram import Histogram
from bci_bridge.notify import Notifier
from bci_bridge.oversight import Overseer, Oversight
from bci_bridge.settings import ServeConfig
from bci_bridge.setup import Beat
from bci_bridge.vitals import Patience
from runtime.errors import BackendError


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.setblocking(False)
        yield line


def test_a_word_is_one_datagram(manager, tmp_path):
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})

    assert notifier.say("READY=1", "STATUS=serving")
    assert manager.recv(100) == b"READY=1\nSTATUS=serving"


def test_an_abstract_name_is_one_as_well():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(b"\0neuroflow-notify-test")

        assert Notifier("@neuroflow-notify-test").say("READY=1")
        assert line.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:1:2", "/no/socket"])
def test_nobody_who_listens_is_no_failure(address):
    assert not Notifier(address).say("READY=1")


def test_a_manager_that_does_not_read_holds_nobody_up(manager, tmp_path):
    notifier = Notifier(str(tmp_path / "notify"))

    heard = [notifier.say("WATCHDOG=1") for _ in range(2000)]

    assert heard[0]
    assert not heard[-1]


@pytest.fixture
def overseen(manager, tmp_path, monkeypatch):
    """An overseer, two children and the clock."""
    now = [10_000_000_000]
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(oversight.time, "monotonic_ns", lambda: now[0])
    patience = Patience.of(ServeConfig(), "worker-a")
    children = [
        Child(name, lambda: 7, Beat(tmp_path, name), patience, pid=7)
        for name in ("a", "b")
    ]
    yield Overseer(tmp_path), children, now
    for child in children:
        child.beat.close()


def kicks(manager):
    found = 0
    while True:
        try:
            found += manager.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            return found


def told(overseen, manager, second):
    overseer, children, now = overseen
    now[0] = second * 1_000_000_000
    overseer.tell(children)
    return kicks(manager)


def test_the_watchdog_is_kicked_while_all_live_and_no_longer(overseen, manager):
    _, (a, b), _ = overseen
    for child in (a, b):
        child.beat.beat(20_000_000_000)

    assert told(overseen, manager, 20) == 1
    assert told(overseen, manager, 25) == 1
    a.beat.beat(26_000_000_000)
    assert told(overseen, manager, 26) == 0
    b.beat.beat(27_000_000_000)
    assert told(overseen, manager, 28) == 1


def test_a_place_that_nobody_fills_is_not_alive(overseen, manager):
    overseen[1][1].pid = 0

    assert told(overseen, manager, 20) == 0


def refuse():
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_place_for_which_no_process_can_be_made_keeps_no_watchdog_waiting(
    overseen, manager, monkeypatch
):
    _, (a, b), now = overseen
    monkeypatch.setattr("bci_bridge.children.time.monotonic_ns", lambda: now[0])
    b.begin, b.pid = refuse, 0

    for second in range(20, 40):
        now[0] = second * 1_000_000_000
        a.beat.beat(now[0])
        with pytest.raises(BackendError):
            b.start()
        assert told(overseen, manager, second) == 1

    # Who hangs beside it does, and so does a server of which nothing is left.
    assert told(overseen, manager, 46) == 0
    a.begin, a.pid = refuse, 0
    with pytest.raises(BackendError):
        a.start()
    assert told(overseen, manager, 47) == 0


def test_who_loads_is_alive_until_it_takes_too_long(overseen, manager):
    assert told(overseen, manager, 600) == 1
    assert told(overseen, manager, 601) == 0


def test_what_is_seen_is_written_each_second_and_at_each_change(overseen, tmp_path):
    overseer, (a, b), now = overseen
    file = tmp_path / "supervisor.account"

    def seen():
        overseer.tell([a, b])
        return msgspec.json.decode(file.read_bytes(), type=Oversight)

    first = seen()
    now[0] += 500_000_000
    second = seen()
    a.pid, a.restarts = 8, 1
    third = seen()
    now[0] += 1_000_000_000

    assert first == second
    assert (third.pids, third.restarts) == ({"a": 8, "b": 7}, {"a": 1, "b": 0})
    assert seen().written_ns == now[0]


def test_an_outage_is_told_once_it_is_over(overseen, tmp_path):
    overseer, (a, b), now = overseen
    overseer.tell([a, b])
    a.pid, a.restarts, a.started_ns = 8, 1, now[0]
    overseer.tell([a, b])
    # Between two accounts it is looked at all the same.
    a.beat.beat(now[0] + 30_000_000)
    now[0] += 40_000_000
    overseer.tell([a, b])
    a.beat.beat(now[0] + 900_000_000)
    now[0] += 1_000_000_000
    overseer.tell([a, b])

    file = tmp_path / "supervisor.account"
    seen = msgspec.json.decode(file.read_bytes(), type=Oversight)
    assert seen.outages == {"a": Histogram().with_one(30_000_000)}


def test_a_full_memory_ends_nothing(overseen, manager, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(oversight, "write_whole", full)

    assert told(overseen, manager, 20) == 1
