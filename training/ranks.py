"""The processes that train together, as the loop sees them; here, the one alone.

A batch is the batch of all processes. Each draws the random numbers of the whole batch
from the same generator and computes its own rows, so that N processes minimise the very
loss of one. `training.accelerated` has the form for many.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from runtime.errors import ConfigError


class Ranks(Protocol):
    """What the loop and the losses need of the other processes."""

    @property
    def count(self) -> int:
        """How many processes there are."""

    @property
    def index(self) -> int:
        """Which of them this one is, from 0."""

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    def wrap(self, module: nn.Module, pieces: Sequence[nn.Module]) -> nn.Module:
        """Return the module whose gradients are averaged over the processes.

        Args:
            module: On `device`; its parameters may be replaced in place.
            pieces: Parts of it that are called as a whole, for sharding one at a time.
        """

    def accumulating(
        self, wrapped: nn.Module, *, is_last: bool
    ) -> AbstractContextManager[object]:
        """Return the context of one part's forward and backward pass.

        Args:
            wrapped: What `wrap` returned.
            is_last: Whether gradients are exchanged after this part.
        """

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in order, with the true gradient.

        Every process must compute the same scalar from them: the gradient that reaches
        a process' rows is then right after averaging over processes.
        """

    def mean(self, numbers: Tensor) -> Tensor:
        """Return the mean over processes."""

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor in full that may be held in parts; all must call it."""

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:
        """Return this process' part of `whole`, held as `like` is."""

    def agreed(self, value: int) -> int:
        """Return the main process' value."""

    def each(self, value: int) -> list[int]:
        """Return every process' value; returns when all have come here."""


class OneProcess:
    """One process: every answer is trivial."""

    count = 1
    index = 0
    is_sharded = False

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    def wrap(self, module: nn.Module, pieces: Sequence[nn.Module]) -> nn.Module:  # noqa: ARG002
        """Return the module itself."""
        return module

    def accumulating(
        self,
        wrapped: nn.Module,  # noqa: ARG002
        *,
        is_last: bool,  # noqa: ARG002
    ) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows

    def mean(self, numbers: Tensor) -> Tensor:
        """Return the numbers."""
        return numbers

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002
        """Return all of it."""
        return whole

    def agreed(self, value: int) -> int:
        """Return the value."""
        return value

    def each(self, value: int) -> list[int]:
        """Return the one value."""
        return [value]


ALONE = OneProcess()
"""Nobody else trains."""


def is_main(ranks: Ranks) -> bool:
    """Say whether this process writes the log, the snapshot and the checkpoint."""
    return ranks.index == 0


def own_rows(ranks: Ranks, batch: int) -> slice:
    """Return the rows of a batch that this process computes.

    Raises:
        ConfigError: The batch cannot be shared out evenly.
    """
    if batch % ranks.count:
        raise ConfigError(
            f"batch: expected a multiple of the {ranks.count} processes, found "
            f"{batch}. The batch is that of all processes; change either number."
        )
    each = batch // ranks.count
    return slice(ranks.index * each, (ranks.index + 1) * each)


@contextmanager
def launched_ranks() -> Iterator[Ranks]:
    """Give the processes that ``accelerate launch`` started, or this one alone."""
    if not {"ACCELERATE_MIXED_PRECISION", "WORLD_SIZE"} & os.environ.keys():
        yield ALONE
        return
    # Late: whoever trains alone does not need the library.
    from training.accelerated import Accelerated

    ranks = Accelerated()
    try:
        yield ranks
    finally:
        ranks.close()
