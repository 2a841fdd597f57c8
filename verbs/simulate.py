"""`neuroflow simulate`: a participant with a known answer."""

from pathlib import Path

from training.participant import (
    ParticipantParameters,
    generate_hybrid,
    generate_participant,
)
from training.participant import tiny as tiny_parameters
from training.participant.hybrid import hybrid_table, read_recording
from verbs.progress import screen
from verbs.sealed_places import refuse_inside


def simulate_participant(
    out: Path, *, seed: int, tiny: bool, residuals: Path | None
) -> None:
    """Write a participant as a BIDS folder.

    Raises:
        RecordingError: The folder exists, or the recording is missing or damaged.
        ArtifactError: It would be in a folder that lists its files.
    """
    refuse_inside(out)
    parameters = tiny_parameters() if tiny else ParticipantParameters()
    with screen() as shown:
        if residuals is not None:
            shown.stage(f"hybrid participant {seed} on the noise of {residuals.name}")
            noise = read_recording(residuals)
            generate_hybrid(out, noise, hybrid_table(), seed, progress=shown.count)
            print(out)
            return
        shown.stage(f"simulated participant {seed}")
        generate_participant(out, parameters, seed, progress=shown.count)
    print(out)
