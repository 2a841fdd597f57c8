"""The little of HTTP that a health page needs: one request head in, one answer out.

Pure: bytes to bytes. GET and HEAD of a known path, HTTP/1.0 or 1.1, no body; everything
else is refused by a status from 400 to 499. One request a connection.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 4096
END: Final = b"\r\n\r\n"

TITLES: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[!-~]*) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")


@dataclass(frozen=True, slots=True)
class Page:
    """What a path shows."""

    status: int
    content_type: str
    text: str


PageOf = Callable[[str], Page | None]
"""From a path without query to its page; None where there is none."""


def reply_to(received: bytes, page_of: PageOf) -> bytes | None:
    """Answer what has arrived so far; None where more must come.

    Args:
        received: All bytes of the connection.
        page_of: Gives the pages; only asked for a request that is whole and sound.
    """
    end = received.find(END)
    if end < 0 or end > MAX_HEAD_BYTES - len(END):
        return refusal(431) if len(received) > MAX_HEAD_BYTES else None
    first, *rest = received[:end].split(b"\r\n")
    request = _REQUEST.fullmatch(first)
    found = [_FIELD.fullmatch(line) for line in rest]
    fields = [(one[1].lower(), one[2].strip()) for one in found if one is not None]
    if request is None or len(fields) < len(rest):
        return refusal(400)
    method, target, minor = request.groups()
    hosts = sum(name == b"host" for name, _ in fields)
    if hosts > 1 or (minor == b"1" and hosts == 0):
        return refusal(400)
    if method not in (b"GET", b"HEAD"):
        return refusal(405)
    if any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in fields
    ):
        return refusal(413)
    page = page_of(target.decode("ascii").partition("?")[0])
    if page is None:
        return refusal(404)
    return _reply(page, has_body=method == b"GET")


def refusal(status: int) -> bytes:
    """Say no."""
    page = Page(status, "text/plain; charset=utf-8", f"{TITLES[status]}\n")
    return _reply(page, has_body=True)


def _reply(page: Page, *, has_body: bool) -> bytes:
    body = page.text.encode()
    head = [
        f"HTTP/1.1 {page.status} {TITLES[page.status]}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(["Allow: GET, HEAD"] if page.status == 405 else []),
    ]
    return "\r\n".join(head).encode() + END + (body if has_body else b"")
