"""`neuroflow simulate`: a participant with a known answer."""

from pathlib import Path

from training.participant import ParticipantParameters, generate_participant
from training.participant import tiny as tiny_parameters
from verbs.progress import screen


def simulate_participant(out: Path, *, seed: int, tiny: bool) -> None:
    """Write a participant as a BIDS folder.

    Raises:
        RecordingError: The folder exists.
    """
    parameters = tiny_parameters() if tiny else ParticipantParameters()
    with screen() as shown:
        shown.stage(f"simulated participant {seed}")
        generate_participant(out, parameters, seed, progress=shown.count)
    print(out)
