"""Tell a server what a participant sees, as a stimulus program does.

python examples/stimulus.py ADDRESS RUN [KEY SERVER_KEY]
"""

import sys
import time
from pathlib import Path

from bci_bridge.keyfolder import read_credentials
from bci_bridge.sender import Sender
from runtime.errors import NeuroFlowError

TRIALS = (("t-1", "bear.png", 0.5), ("t-2", "house.png", 1.5))
"""Trial, picture, and seconds after the scanner's first pulse."""
SHOWN_S, FRAMES_A_SECOND = 0.5, 60

address, run, *keys = sys.argv[1:]
pulse_ns = time.monotonic_ns()  # when your trigger box heard the first pulse


def joined() -> Sender:
    """Connect once the run is under way: before that the server takes no event."""
    while True:
        sender = Sender(address, run, role="stimulus", credentials=credentials)
        if sender.welcome.run == run and sender.welcome.is_running:
            return sender
        sender.close()
        time.sleep(0.1)


def flip() -> tuple[int, int]:
    """Stand for your display's flip: which frame it was, and when it was seen."""
    now_ns = time.monotonic_ns()
    return (now_ns - pulse_ns) * FRAMES_A_SECOND // 1_000_000_000, now_ns


try:
    credentials = read_credentials(*map(Path, keys)) if keys else None
    with joined() as sender:
        for trial, picture, due_s in TRIALS:
            while time.monotonic_ns() < pulse_ns + due_s * 1e9:
                sender.pump(5)  # in the place of a sleep: it keeps the line alive
            frame, shown_ns = flip()
            onset_s = (shown_ns - pulse_ns) / 1e9
            sender.event(trial, onset_s, SHOWN_S, stimulus_id=picture)
            sender.shown(picture, shown_ns, trial, display_frame=frame)
    print(f"{len(TRIALS)} trials are on record")
except NeuroFlowError as error:
    sys.exit(f"stimulus: {error}")
