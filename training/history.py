"""The log of a run: ``history.csv``, ``validation.csv`` and TensorBoard's files."""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from training.checkpoint import write_bytes

FILE = "history.csv"
VALIDATION_FILE = "validation.csv"
"""A row per judgement on held-out images; only where there are any."""
_VALIDATION_COLUMNS = ("step", "loss", "is_best")

TENSORBOARD_EVERY = 10
"""Steps between two points of a TensorBoard curve; the CSV has every step."""


class History:
    """Appends a row per step; on resumption, rows past the snapshot are dropped."""

    def __init__(
        self,
        folder: Path,
        columns: tuple[str, ...],
        after_step: int,
        judged_step: int | None = None,
    ) -> None:
        """Open the log.

        Args:
            folder: Where it lies.
            columns: Names of a step's values.
            after_step: Steps taken so far.
            judged_step: The step judged last, 0 for none yet; None where none will be.
        """
        # Late: the import takes about a second, which a mere `--help` should not pay.
        from torch.utils.tensorboard import SummaryWriter

        self._columns = ("step", *columns)
        self._file = _opened(folder / FILE, self._columns, after_step)
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._judgements: TextIO | None = None
        if judged_step is not None:
            file = folder / VALIDATION_FILE
            self._judgements = _opened(file, _VALIDATION_COLUMNS, judged_step)
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=after_step + 1
        )

    def __enter__(self) -> Self:
        """Return the open log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both files."""
        self._file.close()
        if self._judgements is not None:
            self._judgements.close()
        self._board.close()

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step under the names given at construction."""
        row = [values[name] for name in self._columns[1:]]
        # repr keeps every bit of a float64 and the CSV readable.
        self._rows.writerow([step, *map(repr, row)])
        if step % TENSORBOARD_EVERY == 0 or step == 1:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def judged(self, step: int, loss: float, *, is_best: bool) -> None:
        """Log a judgement on held-out images."""
        if self._judgements is not None:
            self._judgements.write(f"{step},{loss!r},{int(is_best)}\n")
        self._board.add_scalar("validation_loss", loss, step)

    def flush(self) -> None:
        """Hand the rows to the operating system."""
        self._file.flush()
        if self._judgements is not None:
            self._judgements.flush()


def _opened(path: Path, columns: tuple[str, ...], after_step: int) -> TextIO:
    write_bytes(path, _kept_rows(path, columns, after_step))
    return path.open("a", newline="", encoding="utf-8")


def _kept_rows(path: Path, columns: tuple[str, ...], after_step: int) -> bytes:
    lines = [",".join(columns)]
    if path.is_file() and after_step > 0:
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            step = line.partition(",")[0]
            # A process that was killed can leave half a row, always the last one.
            whole = step.isdecimal() and line.count(",") == len(columns) - 1
            if whole and int(step) <= after_step:
                lines.append(line)
    return ("\n".join(lines) + "\n").encode()
