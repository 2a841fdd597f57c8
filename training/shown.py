"""Which of a recording's events are trials: those that show a picture.

A button press or a fixation is an event of BIDS as well, and nothing to decode. Of the
names of one picture one is kept, so that repeats and what splits share are seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.errors import RecordingError
from runtime.picture_names import one_name_each
from runtime.recording import RecordedEvent, Recording
from training.stimuli import read_table, table_file


@dataclass(frozen=True, slots=True, eq=False)
class ShownPictures:
    """A recording whose events are trials, and what was left out of it."""

    recording: Recording
    pictureless: int
    """Events of the types asked for that show no picture."""
    others: int
    """Events of other types."""

    def of(self, split: str) -> set[str]:
        """Return the pictures that trials of a split show."""
        return {
            event.stimulus_id
            for run in self.recording.runs
            for event in run.events
            if event.split == split
        }

    def left_out(self) -> str:
        """Say in words what was left out; empty where nothing was."""
        said = [
            f"{count} {what}"
            for count, what in (
                (self.pictureless, "without a picture"),
                (self.others, "of another trial_type"),
            )
            if count
        ]
        events = f"events left out: {', '.join(said)}" if said else ""
        return "; ".join(line for line in (self.recording.left_out, events) if line)


def shown_pictures(
    recording: Recording, trial_types: Sequence[str] = ()
) -> ShownPictures:
    """Return a recording without the events that are no trials.

    A picture that is named in several ways goes by one name (`one_name_each`).

    Args:
        recording: Of one participant.
        trial_types: Of the column `trial_type`, those that count; all by default.

    Raises:
        RecordingError: No event has one of these types, none shows a picture, or
            ``gallery.tsv`` is damaged, or has two names of one picture.
    """
    events = [event for run in recording.runs for event in run.events]
    known = sorted({event.trial_type for event in events} - {""})
    for name in trial_types:
        if name not in known:
            raise RecordingError(
                f"{recording.folder}: trial_type: expected events of {name}, found "
                f"{', '.join(known) or 'no such column'}"
            )

    def is_asked(event: RecordedEvent) -> bool:
        return not trial_types or event.trial_type in trial_types

    asked = [event for event in events if is_asked(event)]
    pictureless = sum(not event.stimulus_id for event in asked)
    if asked and pictureless == len(asked):
        raise RecordingError(
            f"{recording.folder}: stim_id or stim_file: expected a picture for some of "
            f"the {len(asked)} events, found none"
        )
    folder = recording.folder
    goes_by = one_name_each(
        folder / "stimuli",
        [event.stimulus_id for event in asked if event.stimulus_id],
        read_table(folder).ids if table_file(folder).exists() else (),
    )
    runs = tuple(
        replace(
            run,
            events=tuple(
                replace(event, stimulus_id=goes_by[event.stimulus_id])
                for event in run.events
                if is_asked(event) and event.stimulus_id
            ),
        )
        for run in recording.runs
    )
    return ShownPictures(
        replace(recording, runs=runs), pictureless, len(events) - len(asked)
    )
