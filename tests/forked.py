"""Processes forked from one that has imported torch: each begins seconds earlier.

The process that forks does nothing else, and has no thread; what it forks is killed
and ends as any process.
"""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "tests.ranked",
        "training.accelerated",
        "verbs.evaluate",
        "verbs.export",
        "verbs.train",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.distributed.tensor",
        "torch.onnx",
        "onnxscript",
    ]
)


class Forked:
    """A function in a process of its own, with its output at hand."""

    def __init__(self, run: Callable[..., None], *arguments: object) -> None:
        reader, writer = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_begin, args=(writer, run, arguments))
        self._process.start()
        writer.close()
        self._reader = reader
        self.lines = open(reader.fileno(), closefd=False)  # noqa: SIM115
        """What it says, line by line, until its end."""

    def kill(self) -> None:
        """End it without a word before."""
        self._process.kill()

    def ends_within(self, seconds: float) -> bool:
        """Wait so long and no longer; what it says has to fit a pipe."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return the status, as of subprocess, and what it said."""
        said = self.lines.read()
        self._process.join()
        self.lines.close()
        self._reader.close()
        status = self._process.exitcode
        assert status is not None
        self._process.close()
        return status, said


def _begin(
    writer: Connection, run: Callable[..., None], arguments: Sequence[object]
) -> None:
    import torch

    for output in (1, 2):
        os.dup2(writer.fileno(), output)
    writer.close()
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    try:
        run(*arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def command_line(folder: Path, *arguments: object) -> tuple[int, str]:
    """Type a line of ``neuroflow`` in a folder; return its status and all it said."""
    return Forked(_type, str(folder), [str(one) for one in arguments]).ended()


def _type(folder: str, arguments: Sequence[str]) -> None:
    import neuroflow

    os.chdir(folder)
    sys.argv = ["neuroflow", *arguments]
    sys.exit(neuroflow.main())


def trained(*arguments: object, **variables: str) -> Forked:
    """Start ``python -m tests.ranked`` with arguments, and variables set."""
    return Forked(_train, [str(one) for one in arguments], variables)


@contextmanager
def training(*arguments: object) -> Iterator[Forked]:
    """Start a training; it is gone when the block ends."""
    started = trained(*arguments)
    try:
        yield started
    except BaseException:
        started.kill()
        started.ended()
        raise


def trained_together(
    processes: int, *arguments: object, **variables: str
) -> tuple[int, str]:
    """Let processes train together to their end.

    Returns:
        0 if each ended with it, and what all of them said.
    """
    every = started_together(processes, *arguments, **variables)
    ended = [each.ended() for each in every]
    return max(abs(status) for status, _ in ended), "".join(said for _, said in ended)


def started_together(
    processes: int, *arguments: object, **variables: str
) -> list[Forked]:
    """Start processes that train together, the main one first, as torch's launcher."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common: Mapping[str, str] = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        **variables,
    }
    return [
        trained(*arguments, **common, RANK=str(n), LOCAL_RANK=str(n))
        for n in range(processes)
    ]


def _train(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    from tests import ranked

    os.environ.update(variables)
    sys.argv = ["ranked", *arguments]
    ranked.main()
