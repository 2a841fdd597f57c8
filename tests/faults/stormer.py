"""Peers of ill will in a process of their own: ``python -m tests.faults.stormer LOG``
followed by addresses, each of which is attacked in turn until this process is ended.

What they say is the security tests' own list: nothing, HTTP, half a greeting, the
handshakes of other mechanisms, random bytes; some connections are held open.
"""

import os
import signal
import sys
from pathlib import Path

from tests.faults.jsonlog import JsonLog
from tests.integration.hostile import storm

BATCH = 100
"""Connections at once; the pause within `storm` makes some hundred a second of it."""


def main(log_file: str, *addresses: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.nice(15)  # as a storm from elsewhere, it takes no time from who is attacked
    log = JsonLog(Path(log_file))
    while True:
        for address in addresses:
            storm(address, BATCH, threads=1)
            log.write("storm", connections=BATCH)


if __name__ == "__main__":
    main(*sys.argv[1:])
