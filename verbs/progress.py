"""Progress on the screen: one line a stage, with loss and time left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    # Training imports torch, which a rig does without.
    from training.loop import Progress as TrainingProgress

console = Console(stderr=True, highlight=False)
"""Progress goes to standard error; standard output belongs to results."""


class Screen:
    """Announces stages, shows how far the present one is, and times them."""

    def __init__(self, out: Console = console) -> None:
        """Write to a console."""
        self._console = out
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def stage(self, line: str) -> None:
        """Announce what begins."""
        self.finish()
        elapsed = time.monotonic() - self._began
        self._console.print(f"[dim]{elapsed:6.1f} s[/dim]  {line}")

    def say(self, line: str) -> None:
        """Print a line below the present stage."""
        self._console.print(f"          {line}")

    def count(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self._update(done, total, "")

    def training(self, progress: "TrainingProgress") -> None:
        """Show a training step: loss and time left."""
        self._update(progress.step, progress.steps, f"loss {progress.loss:.4g}")

    def _update(self, done: int, total: int, note: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("         "),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=not self._console.is_terminal,
                refresh_per_second=4,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total, note=note)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
        if done >= total:
            self.finish()

    def finish(self) -> None:
        """Take the bar of the present stage away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task = None, None


@contextmanager
def screen(*, is_quiet: bool = False) -> Iterator[Screen]:
    """Give a screen that leaves the terminal as it was, whatever happens.

    Args:
        is_quiet: Show nothing: another process of the same work does.
    """
    shown = Screen(Console(quiet=True) if is_quiet else console)
    try:
        yield shown
    finally:
        shown.finish()
