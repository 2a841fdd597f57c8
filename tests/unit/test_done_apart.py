"""What a copy of the process fails by is told by the process that asked."""

import os
import signal

import pytest

from runtime.errors import BackendError, ParityError, UsageError
from verbs.apart import apart


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a wrong\n  value"), "ValueError: a wrong value"),
        (MemoryError(), "MemoryError"),
        (
            OSError(28, "No space left on device"),
            "OSError: [Errno 28] No space left on",
        ),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_what_nobody_meant_to_raise_is_named_in_one_line(error, line):
    with pytest.raises(BackendError) as caught:
        apart("--backend auto", raising(error))

    assert str(caught.value).startswith(
        f"--backend auto: expected it to be done, found {line}"
    )
    assert "\n" not in str(caught.value)


def test_what_was_meant_stays_as_it_was_said():
    with pytest.raises(UsageError, match=r"^no such key$"):
        apart("--rehearse", raising(UsageError("no such key")))
    with pytest.raises(BackendError, match=r"^x: expected 1, found 2$"):
        apart("auto", raising(ParityError("x: expected 1, found 2")))
    assert apart("auto", lambda: "done") == "done"


def test_a_killed_copy_is_said_to_be_dead():
    with pytest.raises(BackendError, match=r"expected it to be done, found its proc"):
        apart("auto", lambda: os.kill(os.getpid(), signal.SIGKILL))
