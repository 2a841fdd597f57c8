"""The command line without an interpreter of its own, which imports torch for seconds.

The same entry point and exit status; what only a process has, as a closed pipe or a
signal, needs one.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import neuroflow


def said(*arguments: object) -> tuple[int, str, str]:
    """Run the command line; return its exit status, output and error."""
    out, error = io.StringIO(), io.StringIO()
    argv = ["neuroflow", *map(str, arguments)]
    with mock.patch("sys.argv", argv), redirect_stdout(out), redirect_stderr(error):
        try:
            status = neuroflow.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, out.getvalue(), error.getvalue()
