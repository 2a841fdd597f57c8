"""A stage's module made ready to run, and its batches cut into parts."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

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


def cut_contrast(
    micro_batch: int | None,
    run: Callable[..., tuple[Tensor, ...]],
    judge: Callable[[tuple[Tensor, ...]], StepLosses],
    *rows: Tensor,
) -> list[Part]:
    """Cut rows into parts of a loss that contrasts all of them with each other.

    The module first runs without a graph, part by part; the loss of all outputs gives
    the gradient at each of them; then every part runs again and passes its rows of that
    gradient on. Loss and gradient are those of the whole batch, at the price of another
    forward pass: Gao et al. (2021), "Scaling deep contrastive learning batch size under
    memory limited setup", section 3.2.

    Args:
        micro_batch: Rows of a part; the last one may be smaller. None makes one part,
            which runs once.
        run: The module, on some rows; must do the same with the same rows.
        judge: Losses of the outputs of all rows.
        *rows: Tensors of equal length.
    """
    n = len(rows[0])
    if micro_batch is None:
        return [Part(1.0, lambda: judge(run(*rows)))]
    cuts = [slice(at, min(at + micro_batch, n)) for at in range(0, n, micro_batch)]

    @functools.cache
    def judged() -> tuple[StepLosses, tuple[Tensor, ...]]:
        outputs = _all_outputs(run, cuts, rows)
        found = judge(outputs)
        pulls = torch.autograd.grad(found.total, outputs)
        terms = {name: term.detach() for name, term in found.terms.items()}
        return StepLosses(found.total.detach(), terms), pulls

    def part(own: slice) -> Part:
        share = (own.stop - own.start) / n

        def losses() -> StepLosses:
            found, pulls = judged()
            outputs = run(*(tensor[own] for tensor in rows))
            pulled = torch.stack(
                [(o * pull[own]).sum() for o, pull in zip(outputs, pulls, strict=True)]
            ).sum()
            # The value of the whole loss, and the gradient of these rows' part of it.
            total = found.total + (pulled - pulled.detach()) / share
            return StepLosses(total, found.terms)

        return Part(share, losses)

    return [part(own) for own in cuts]


def _all_outputs(
    run: Callable[..., tuple[Tensor, ...]],
    cuts: Sequence[slice],
    rows: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Run the module part by part, into tensors of all rows that take gradients."""
    n, outputs = len(rows[0]), list[Tensor]()
    with torch.no_grad():
        for own in cuts:
            found = run(*(tensor[own] for tensor in rows))
            if not outputs:
                outputs = [one.new_empty(n, *one.shape[1:]) for one in found]
            for whole, one in zip(outputs, found, strict=True):
                whole[own] = one
    return tuple(whole.requires_grad_() for whole in outputs)
