"""Any bytes get no answer yet, a page, or a refusal; and only a few bytes are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bci_bridge.http_head import MAX_HEAD_BYTES, Page, reply_to

PAGE = Page(200, "text/plain", "well\n")


def pages(path):
    return PAGE if path == "/livez" else None


def status(received):
    reply = reply_to(received, pages)
    return None if reply is None else int(reply.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("request_bytes", "wanted"),
    [
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"HEAD /livez?verbose HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /livez HTTP/2.0\r\n\r\n", 400),
        (b"GET  /livez HTTP/1.0\r\n\r\n", 400),
        (b"GET /livez HTTP/1.0\r\nHost : x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.0\r\n folded: x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.0\r\nA: \x00\r\n\r\n", 400),
        (b"GET http://127.0.0.1/livez HTTP/1.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /../livez HTTP/1.0\r\n\r\n", 404),
        (b"GET /LIVEZ HTTP/1.0\r\n\r\n", 404),
        (b"POST /livez HTTP/1.0\r\n\r\n", 405),
        (b"GET /livez HTTP/1.0\r\nContent-Length: 5\r\n\r\n", 413),
        (b"GET /livez HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET /livez HTTP/1.0\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.0\r\n", None),
        (b"", None),
    ],
)
def test_a_request_gets_its_page_or_a_refusal(request_bytes, wanted):
    assert status(request_bytes) == wanted


@given(st.binary(max_size=2 * MAX_HEAD_BYTES))
def test_any_bytes_are_waited_for_or_refused(received):
    found = status(received)

    assert found in (None, 400, 404, 405, 413, 431)
    # Nobody can make it wait for more than it keeps.
    assert found is not None or len(received) <= MAX_HEAD_BYTES


@given(
    st.sampled_from([b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"]),
    st.integers(0, 40),
    st.binary(min_size=1, max_size=3),
)
def test_a_request_with_changed_bytes_never_raises(request_bytes, at, change):
    changed = request_bytes[:at] + change + request_bytes[at + len(change) :]

    assert status(changed) in (None, 200, 400, 404, 405, 413)


def test_a_head_is_answered_without_the_body_and_nothing_is_cached():
    got = reply_to(b"GET /livez HTTP/1.0\r\n\r\n", pages)
    head = reply_to(b"HEAD /livez HTTP/1.0\r\n\r\n", pages)

    assert got == head + b"well\n"
    assert b"\r\nContent-Length: 5\r\n" in head
    assert b"\r\nCache-Control: no-store\r\n" in head
    assert b"Access-Control" not in head


def test_pages_are_only_made_for_sound_requests():
    asked = []
    for bad in (b"POST /livez HTTP/1.0\r\n\r\n", b"GET /livez HTTP/1.1\r\n\r\n", b"G"):
        reply_to(bad, asked.append)

    assert asked == []
