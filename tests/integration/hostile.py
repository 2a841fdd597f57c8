"""Peers without a right to be here, and the sockets of those who have one."""

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from bci_bridge.keyring import Credentials
from bci_bridge.self_attack import NULL, PLAIN


@contextmanager
def keyed(
    address: str, credentials: Credentials, kind: int = zmq.DEALER, name: bytes = b""
) -> Iterator["zmq.Socket[bytes]"]:
    """A bare socket under a key, to say what no decent peer would."""
    with zmq.Context() as context, context.socket(kind) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        peer.curve_publickey = credentials.pair.public_key.encode()
        peer.curve_secretkey = credentials.pair.secret_key.encode()
        peer.curve_serverkey = credentials.server_key.encode()
        if name:
            peer.setsockopt(zmq.ROUTING_ID, name)
        peer.connect(address)
        yield peer


def port_of(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def heard_by(address: str, *said: bytes, timeout_s: float = 3.0) -> tuple[bytes, bool]:
    """Say bytes, each part upon an answer; return what came back and if it hung up."""
    heard = b""
    with socket.create_connection(port_of(address), timeout_s) as line:
        try:
            for part in said:
                line.sendall(part)
                more = line.recv(4096)
                heard += more
            while more:
                more = line.recv(4096)
                heard += more
        except TimeoutError:
            return heard, False
        except (ConnectionResetError, BrokenPipeError):
            pass
    return heard, True


def storm(address: str, count: int, threads: int = 4) -> Counter[str]:
    """Connect `count` times with ill will; return what became of the attempts."""
    found: Counter[str] = Counter()
    sayings = {
        "nothing": b"",
        "http": b"GET / HTTP/1.0\r\n\r\n",
        "null": b"".join(NULL),
        "plain": b"".join(PLAIN),
        "half": NULL[0][:20],
        "curve": NULL[0][:12]
        + b"CURVE".ljust(20, b"\0")
        + bytes(32)
        + b"\x04\xc8\x05HELLO",
        "random": random.Random(7).randbytes(300),
    }

    def body(names: list[str]) -> None:
        kept = []
        for name in names:
            with contextlib.suppress(OSError):
                line = socket.create_connection(port_of(address), 5)
                line.sendall(sayings[name])
                if name in ("half", "curve") and len(kept) < 40:
                    kept.append(line)
                    continue
                line.settimeout(0.001)
                with contextlib.suppress(OSError):
                    heard = line.recv(4096)
                    found["let in"] += len(heard) > 64
                line.close()
            found[name] += 1
        time.sleep(0.2)
        for line in kept:
            line.close()

    each = [list(sayings)[i % len(sayings)] for i in range(count)]
    workers = [
        threading.Thread(target=body, args=(each[i::threads],)) for i in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found
