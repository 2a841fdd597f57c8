"""The health page answers who asks properly, and costs the others nothing."""

import contextlib
import os
import socket
import time
import urllib.request

import pytest

from bci_bridge.health import MAX_CONNECTIONS, Health, checked_health
from bci_bridge.http_head import Page
from runtime.errors import BackendError, UsageError

pytestmark = pytest.mark.slow

LARGE = Page(200, "text/plain", "x" * 3_000_000)
PAGES = {"/livez": Page(200, "text/plain", "live\n"), "/large": LARGE}


@contextlib.contextmanager
def answering(page_of=PAGES.get, **options):
    health = Health("127.0.0.1:*", page_of, **options)
    try:
        yield health
    finally:
        health.close()


def connected(health):
    host, port = health.endpoint.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def said(health, request):
    with connected(health) as line:
        with contextlib.suppress(OSError):
            line.sendall(request)
        return heard(line)


def heard(line):
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := line.recv(1 << 16):
            found += data
    return found


def is_well(health):
    return said(health, b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_page_is_served_to_an_ordinary_client():
    with answering() as health:
        url = f"http://{health.endpoint}/livez"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read()

    assert text == b"live\n"


def test_a_page_longer_than_a_socket_holds_arrives_whole():
    with answering() as health:
        found = said(health, b"GET /large HTTP/1.0\r\n\r\n")

    assert found.endswith(b"\r\n\r\n" + b"x" * 3_000_000)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /livez HTTP/1.0\r\n\r\n", b"405"),
        (b"\x00\xff\r\n\r\n", b"400"),
        # More than it reads: the refusal must arrive all the same.
        (b"GET /" + b"x" * 1_000_000, b"431"),
    ],
)
def test_what_is_no_request_is_refused(request_bytes, status):
    with answering() as health:
        found = said(health, request_bytes)
        after = is_well(health)

    assert found.startswith(b"HTTP/1.1 " + status)
    assert after


def test_a_request_in_single_bytes_is_a_request():
    with answering() as health, connected(health) as line:
        for byte in b"GET /livez HTTP/1.0\r\n\r\n":
            line.sendall(bytes([byte]))
        found = heard(line)

    assert found.startswith(b"HTTP/1.1 200 ")


def test_half_a_request_is_given_up():
    now = [0.0]
    with answering(clock_s=lambda: now[0]) as health, connected(health) as line:
        line.sendall(b"GET /livez")
        assert is_well(health)
        now[0] = 10.0
        found = heard(line)

    assert found.startswith(b"HTTP/1.1 408 ")


def test_idle_connections_lock_nobody_out():
    with answering() as health, contextlib.ExitStack() as stack:
        for _ in range(4 * MAX_CONNECTIONS):
            stack.enter_context(connected(health))
        found = is_well(health)
        held = len(health._lines)

    assert found
    assert held <= MAX_CONNECTIONS


def test_a_flood_of_garbage_costs_no_descriptor_and_no_thread():
    with answering() as health:
        assert is_well(health)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(200):
            line = connected(health)
            with contextlib.suppress(OSError):
                line.sendall(os.urandom(number))
            line.close()
        end = time.monotonic() + 20
        while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < end:
            time.sleep(0.01)
        after = len(os.listdir("/proc/self/fd"))
        found = is_well(health)

    assert found
    assert after <= before


def test_a_page_that_fails_ends_the_thread_and_is_told():
    def broken(path):
        raise RuntimeError("no page")

    with answering(broken) as health:
        said(health, b"GET /livez HTTP/1.0\r\n\r\n")
        health._thread.join(5)

    assert health.trouble == (
        "health: expected its thread to run, found it dead: RuntimeError('no page')"
    )


def test_a_port_in_use_is_one_clear_line():
    with answering() as health, pytest.raises(BackendError) as caught:
        Health(health.endpoint, PAGES.get)

    assert str(caught.value) == (
        f"health {health.endpoint}: expected a free port, found: address already in "
        "use. Stop the other program or give another --health."
    )


def test_a_successor_waits_for_its_port():
    with answering() as first:
        endpoint = first.endpoint
        second = Health(endpoint, PAGES.get, is_restart=True)
        missing = second.trouble
    try:
        end = time.monotonic() + 5
        while second.trouble and time.monotonic() < end:
            time.sleep(0.01)
        assert is_well(second)
    finally:
        second.close()

    assert "address already in use" in missing
    assert second.endpoint == endpoint


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("9100", "--health: expected 127.0.0.1:PORT, found '9100'"),
        ("127.0.0.1:x", "--health: expected 127.0.0.1:PORT, found '127.0.0.1:x'"),
        (
            "0.0.0.0:9100",
            "--health: expected a loopback address, found 0.0.0.0. Anyone could read "
            "it there; forward the port instead, for example with ssh -L",
        ),
    ],
)
def test_an_address_that_is_not_allowed_is_one_clear_line(address, message):
    with pytest.raises(UsageError) as caught:
        checked_health(address)

    assert str(caught.value) == message


def test_both_families_of_loopback_are_allowed():
    assert checked_health("[::1]:80") == ("::1", 80)
    assert checked_health("localhost:*") == ("localhost", 0)
