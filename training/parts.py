"""A stage's module made ready to run, and its batches cut into parts."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from runtime.errors import ConfigError
from training.compute import Compute
from training.ranks import Ranks
from training.recompute import set_recompute
from training.state import Part, StepLosses


def made_ready(
    module: nn.Module, pieces: Sequence[nn.Module], compute: Compute, ranks: Ranks
) -> nn.Module:
    """Return what runs in the loop: recomputing, compiled and shared out as asked.

    Args:
        module: On its device; changed in place, its names stay as they are.
        pieces: Parts of it that are called as a whole.
        compute: How it computes.
        ranks: The processes that train together.
    """
    set_recompute(module, compute.checkpoint_activations)
    compute.prepare(module)
    return ranks.wrap(module, pieces)


def cut(
    micro_batch: int | None, losses: Callable[..., StepLosses], *rows: Tensor
) -> list[Part]:
    """Cut rows into parts whose losses, weighted by share, are those of all of them.

    Right for a loss that is a mean over rows, and for no other.

    Args:
        micro_batch: Rows of a part; the last one may be smaller. None makes one part.
        losses: Computes a part's losses from its rows.
        *rows: Tensors of equal length.
    """
    n = len(rows[0])
    size = n if micro_batch is None else min(micro_batch, n)

    def part(first: int) -> Part:
        own = [tensor[first : first + size] for tensor in rows]
        return Part(len(own[0]) / n, lambda: losses(*own))

    return [part(first) for first in range(0, n, size)]


def refuse_parts(compute: Compute) -> None:
    """Refuse to cut a batch whose loss is not a mean over rows.

    Raises:
        ConfigError: It is asked for.
    """
    if compute.micro_batch is not None:
        raise ConfigError(
            f"micro_batch: expected none in stage 1, found {compute.micro_batch}: "
            "SoftCLIP contrasts all trials of a batch, so that parts have another "
            "loss. Use checkpoint_activations or more processes."
        )
