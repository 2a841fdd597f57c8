"""Conversations of sources without a socket, and peers with one."""

import socket
import threading

from bci_bridge.sources.source import Arrival


def heard(begin, data, name="peer"):
    """Give a conversation bytes as it asks for them, then hang up.

    Returns:
        What it made of them, what it sent, and how many bytes it left.
    """
    arrivals: list[Arrival] = []
    sent, at, given = [], 0, None
    talk = begin(name, arrivals)
    try:
        while True:
            asked = next(talk) if given is None else talk.send(given)
            if isinstance(asked, bytes):
                sent.append(asked)
                given = b""
                continue
            if at + asked > len(data):
                talk.throw(EOFError())
            given = data[at : at + asked]
            at += asked
    except (StopIteration, EOFError):
        return arrivals, b"".join(sent), len(data) - at


class Peer(threading.Thread):
    """Connects, says its parts one after the other, reads to the end."""

    def __init__(self, port, *parts, hangs_up=True):
        super().__init__(name="peer")
        self.port, self.parts, self.hangs_up = port, parts, hangs_up
        self.answer = None

    def run(self):
        with socket.create_connection(("127.0.0.1", self.port), 10) as line:
            try:
                for part in self.parts:
                    line.sendall(part)
                # A side that has refused us may already have reset the line:
                # closing our half of it then fails as a write would.
                if self.hangs_up:
                    line.shutdown(socket.SHUT_WR)
            except OSError:
                return
            line.settimeout(10)
            parts = []
            try:
                while part := line.recv(4096):
                    parts.append(part)
            except OSError:
                pass
            self.answer = b"".join(parts)


def gathered(source, n, tries=2000):
    """Ask a source until it has given so many."""
    found = []
    for _ in range(tries):
        arrival = source.poll(0.01)
        if arrival is not None:
            found.append(arrival)
        if len(found) == n:
            break
    return found
