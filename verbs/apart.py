"""Something done in a copy of this process, of which nothing stays in this one.

A server's processes that meet strangers are copies of its owner. What they must not
hold, such as a secret or a reader of image files, the owner looks at here.
"""

import os
from collections.abc import Callable

import msgspec

from bci_bridge.telling import flush_told
from runtime.errors import BackendError, NeuroFlowError, UsageError


class _Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    result: str = ""
    failure: str = ""
    exit_status: int = 0


def apart(what: str, work: Callable[[], str]) -> str:
    """Do some work in a copy of this process, which has no thread.

    Args:
        what: Is done, for the message where the copy is killed.
        work: Gives a text back.

    Raises:
        UsageError: The work raised it.
        BackendError: The work failed otherwise, or its process was killed.
    """
    flush_told()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _reply(what, work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    if not data:
        raise BackendError(f"{what}: expected it to be done, found its process dead")
    reply = msgspec.json.decode(data, type=_Reply)
    if reply.exit_status == UsageError.exit_status:
        raise UsageError(reply.failure)
    if reply.exit_status:
        raise BackendError(reply.failure)
    return reply.result


def _reply(what: str, work: Callable[[], str], writer: int) -> None:
    """Be the copy; never return."""
    try:
        try:
            reply = _Reply(result=work())
        except NeuroFlowError as error:
            reply = _Reply(failure=str(error), exit_status=error.exit_status)
        except BaseException as error:  # nobody else hears of it
            reply = _Reply(failure=_line(what, error), exit_status=1)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(msgspec.json.encode(reply))
    finally:
        # Not the way out of the program that this process is a copy of.
        os._exit(0)


def _line(what: str, error: BaseException) -> str:
    said = " ".join(str(error).split())
    found = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"{what}: expected it to be done, found {found}"
