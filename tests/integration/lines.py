"""Lines that lose messages, and peers that say what they like."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import zmq


@contextmanager
def dealer(address: str) -> Iterator["zmq.Socket[bytes]"]:
    """A bare socket, to say what no decent peer would."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        # Who is refused while connecting has nobody to send to, for ever.
        socket.setsockopt(zmq.SNDTIMEO, 5000)
        socket.connect(address)
        yield socket


@contextmanager
def lossy_line(address: str, every: int) -> Iterator[str]:
    """Stand between one sender and the server; lose one message in n either way.

    At random, not each n-th: a strict period can fall in step with a sender that sends
    the same few messages again, and lose the same one for ever.
    """
    dice = random.Random(every)
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as front,
        context.socket(zmq.DEALER) as back,
    ):
        port = front.bind_to_random_port("tcp://127.0.0.1")
        back.setsockopt(zmq.LINGER, 0)
        front.setsockopt(zmq.LINGER, 0)
        back.connect(address)
        peers: list[bytes] = []

        def from_front() -> None:
            peer, *frames = front.recv_multipart()
            peers[:] = [peer]
            if dice.randrange(every):
                back.send_multipart(frames)

        def from_back() -> None:
            frames = back.recv_multipart()
            if dice.randrange(every):
                front.send_multipart([*peers, *frames])

        with _relaying({front: from_front, back: from_back}):
            yield f"tcp://127.0.0.1:{port}"


def lossy_announcements(address: str, every: int) -> AbstractContextManager[str]:
    """Pass a publisher on, losing every n-th announcement."""
    counted = itertools.count(1)
    return announcements_without(address, lambda frames: not next(counted) % every)


@contextmanager
def announcements_without(
    address: str, is_lost: Callable[[list[bytes]], bool]
) -> Iterator[str]:
    """Pass a publisher on, losing what is to be lost."""
    with (
        zmq.Context() as context,
        context.socket(zmq.SUB) as back,
        context.socket(zmq.PUB) as front,
    ):
        back.setsockopt(zmq.LINGER, 0)
        front.setsockopt(zmq.LINGER, 0)
        port = front.bind_to_random_port("tcp://127.0.0.1")
        back.connect(address)
        back.setsockopt(zmq.SUBSCRIBE, b"")

        def relay() -> None:
            frames = back.recv_multipart()
            if not is_lost(frames):
                front.send_multipart(frames)

        with _relaying({back: relay}):
            yield f"tcp://127.0.0.1:{port}"


@contextmanager
def answering(answer: Callable[[list[bytes]], list[list[bytes]]]) -> Iterator[str]:
    """A ROUTER that answers each message with as many as it likes."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        # What a peer that has gone has not read is waited for else, for ever.
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")

        def reply() -> None:
            peer, *frames = socket.recv_multipart()
            for found in answer(frames):
                socket.send_multipart([peer, *found])

        with _relaying({socket: reply}):
            yield f"tcp://127.0.0.1:{port}"


@contextmanager
def _relaying(
    handlers: dict["zmq.Socket[bytes]", Callable[[], None]],
) -> Iterator[None]:
    stopping = threading.Event()

    def body() -> None:
        poller = zmq.Poller()
        for socket in handlers:
            poller.register(socket, zmq.POLLIN)
        while not stopping.is_set():
            for socket, _ in poller.poll(50):
                handlers[socket]()

    thread = threading.Thread(target=body, name="relay")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(10)
