"""Activation checkpointing: keep a layer's inputs, compute the rest again."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def set_recompute(module: nn.Module, is_on: bool) -> None:
    """Switch activation checkpointing in every part of `module` that offers it."""
    for part in module.modules():
        if hasattr(part, "recompute"):
            part.recompute = is_on  # type: ignore[assignment]


def run(layer: nn.Module, *inputs: Tensor, recompute: bool) -> Tensor:
    """Call a layer; with `recompute`, its activations are not kept.

    Args:
        layer: A module that draws no random numbers.
        *inputs: What it is called with.
        recompute: Keep the inputs alone and compute the layer again in the backward
            pass. Gradients are the same; Chen et al. (2016), arXiv 1604.06174.
    """
    out: Tensor
    if recompute and torch.is_grad_enabled():
        out = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
    else:
        out = layer(*inputs)
    return out
