"""The end of a stage: the main process writes the checkpoint, the others wait."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from training.checkpoint import save_checkpoint
from training.config import ModelConfig
from training.ranks import Ranks, is_main
from training.state import Stage


def keep(
    out: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    stage: Stage,
    ranks: Ranks,
) -> None:
    """Write a finished stage's checkpoint; return when it is there.

    Args:
        out: Folder of the checkpoint.
        weights: What `training.loop.train` returned.
        config: The model.
        stage: What was trained.
        ranks: The processes that trained together.
    """
    if is_main(ranks):
        save_checkpoint(
            out,
            weights,
            config,
            stage=stage.run.stage,
            seed=stage.seed,
            step=stage.steps,
            vae_fingerprint=stage.run.vae or None,
            compute=stage.compute,
        )
    ranks.each(stage.steps)
