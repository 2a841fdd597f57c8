"""A recording as one HDF5 file of plain types: numbers, texts and arrays of them.

h5py comes from the extra `scanner`. Volumes are chunks of their own, written as they
come; a table is a group with one dataset for each column.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from bci_bridge.arrays import arrays_from_bytes
from bci_bridge.exports import tables
from bci_bridge.exports.columns import Table
from bci_bridge.exports.facts import RunFacts
from bci_bridge.exports.sidecar import sidecar_of
from bci_bridge.exports.text import plain, safe_name
from bci_bridge.outcomes import TrialOutcome
from bci_bridge.recording_reader import Break
from bci_bridge.segment import Logged
from runtime.arrays import Shaped
from runtime.errors import BackendError

NO_INTEGER: Final = -(1 << 63)
"""Stands in a column of integers where there is none."""

LAYOUT: Final = 1
"""Version of the file's layout."""

_OBJECTS: Final = frozenset({"Degraded", "MissingVolumes", "Rigs"})
"""Parts of the sidecar that are JSON here."""

_TEXTS: Final = frozenset(
    {
        "BundleSHA256",
        "ConfigurationSHA256",
        "GallerySHA256",
        "OverlaySHA256",
        "PreprocessingSHA256",
        "RecordingLosses",
        "RecordingNotes",
        "SentVoxelTypes",
    }
)
"""Parts of the sidecar that are lists of texts."""

_REALS: Final = frozenset({"Affine", "SliceTiming"})
"""Parts of the sidecar that are lists of real numbers; of the others, integers."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class Hdf5Writer:
    """The one file of a recording."""

    def __init__(self, file: Path, *, version: str, losses: Iterable[str]) -> None:
        """Begin the file.

        Args:
            file: Where to write.
            version: Of this software.
            losses: What cannot be read of the recording.

        Raises:
            BackendError: h5py is missing.
        """
        try:
            import h5py
        except ImportError as error:
            raise BackendError(
                "h5py: expected the extra scanner, found it missing. "
                "Install neuroflow-rt[scanner]"
            ) from error
        self._text = h5py.string_dtype()
        self._losses = list(losses)
        self._file: Any = h5py.File(file, "w")
        self._file.attrs["layout"] = LAYOUT
        self._file.attrs["software"] = f"neuroflow-rt {version}"
        self._file.create_group("runs")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def add_run(self, run: RunFacts) -> None:
        """Write all of a run but its arrays, and make room for its volumes."""
        group = self._file["runs"].create_group(safe_name(run.name))
        for name, value in sidecar_of(run, self._losses).items():
            self._attribute(group, name, value)
        for name, table in (
            ("events", tables.events_table(run)),
            ("shown", tables.shown_table(run)),
            ("volume_outcomes", tables.volumes_table(run)),
            ("trial_outcomes", tables.trials_table(run)),
        ):
            self._table(group.create_group(name), table)
        self._candidates(group.create_group("candidates"), run)
        group.create_group("arrays")
        if run.kinds:
            group.create_dataset(
                "volumes",
                shape=(run.count, *run.start.shape),
                dtype=run.dtype,
                chunks=(1, *run.start.shape),
                compression="gzip",
                compression_opts=1,
                shuffle=True,
                fillvalue=np.nan if np.issubdtype(run.dtype, np.floating) else 0,
            )

    def add_volume(
        self, run: RunFacts, index: int, voxels: Shaped[np.ndarray, "x y z"]
    ) -> None:
        """Write one volume; those that never come read as the fill value."""
        self._file["runs"][safe_name(run.name)]["volumes"][index] = voxels

    def add_arrays(self, run: RunFacts, outcome: TrialOutcome, payload: bytes) -> None:
        """Write the arrays of a trial."""
        parent = self._file["runs"][safe_name(run.name)]["arrays"]
        group = parent.create_group(outcome.trial_id)
        for count, (name, array) in enumerate(arrays_from_bytes(payload).items()):
            # Another name could lead out of the group.
            known = name if _NAME.fullmatch(name) else f"array_{count}"
            data = group.create_dataset(known, data=np.asarray(array))
            data.attrs["name"] = plain(name)

    def _attribute(self, group: Any, name: str, value: Any) -> None:
        # Long lists do not fit into an attribute.
        if value is None:
            return
        if name in _OBJECTS:
            text = msgspec.json.encode(value).decode()
            group.create_dataset(name, data=text, dtype=self._text)
        elif name in _TEXTS:
            self._texts(group, name, value)
        elif isinstance(value, list):
            kind = np.float64 if name in _REALS else np.int64
            group.create_dataset(name, data=np.array(value, kind))
        else:
            group.attrs[name] = value

    def _texts(self, group: Any, name: str, texts: list[str]) -> Any:
        shape = (len(texts),)
        return group.create_dataset(name, data=texts, dtype=self._text, shape=shape)

    def _table(self, group: Any, table: Table) -> None:
        for place, column in enumerate(table.columns):
            cells = [row[place] for row in table.rows]
            data: Any
            if column.kind == "text":
                texts = ["" if cell is None else str(cell) for cell in cells]
                data = self._texts(group, column.name, texts)
            elif column.kind == "integer":
                numbers = [NO_INTEGER if cell is None else cell for cell in cells]
                data = group.create_dataset(
                    column.name, data=np.array(numbers, np.int64)
                )
                data.attrs["missing"] = NO_INTEGER
            else:
                reals = [np.nan if cell is None else cell for cell in cells]
                data = group.create_dataset(
                    column.name, data=np.array(reals, np.float64)
                )
            data.attrs["description"] = column.description
            if column.units:
                data.attrs["units"] = column.units

    def _candidates(self, group: Any, run: RunFacts) -> None:
        """Write all candidates of all trials, best first."""
        found = [
            (one.trial_id, rank, candidate)
            for one in sorted(run.trials.values(), key=lambda one: one.outcome_index)
            for rank, candidate in enumerate(one.candidates, start=1)
        ]
        for name, texts in (
            ("trial_id", [plain(trial_id) for trial_id, _, _ in found]),
            ("stimulus_id", [plain(one.stimulus_id) for _, _, one in found]),
            ("label", [plain(one.label) for _, _, one in found]),
        ):
            self._texts(group, name, texts)
        ranks = np.array([rank for _, rank, _ in found], np.int64)
        group.create_dataset("rank", data=ranks)
        cosines = np.array([one.cosine for _, _, one in found], np.float64)
        group.create_dataset("cosine", data=cosines)


def trial_arrays(
    outcomes: Iterable[Logged | Break], runs: dict[str, RunFacts]
) -> Iterable[tuple[RunFacts, TrialOutcome, bytes]]:
    """Yield the arrays of the trials that the facts hold, one trial at a time."""
    given: set[tuple[str, str]] = set()
    for item in outcomes:
        if isinstance(item, Break):
            continue
        record = item.envelope.record
        if not isinstance(record, TrialOutcome) or record.run not in runs:
            continue
        run, place = runs[record.run], (record.run, record.trial_id)
        # The facts hold the first; another one of the same trial is a repetition.
        if run.trials.get(record.trial_id) == record and place not in given:
            given.add(place)
            if item.envelope.payload:
                yield run, record, item.envelope.payload
