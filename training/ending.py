"""The end of a stage: the main process writes the checkpoint, the others wait."""

from pathlib import Path

from training.checkpoint import save_checkpoint
from training.config import ModelConfig
from training.loop import Trained
from training.provenance import Synthetic
from training.ranks import Ranks, is_main
from training.state import Stage


def keep(
    out: Path,
    trained: Trained,
    config: ModelConfig,
    stage: Stage,
    ranks: Ranks,
    synthetic: Synthetic | None,
) -> None:
    """Write a finished stage's checkpoint; return when it is there.

    Args:
        out: Folder of the checkpoint.
        trained: What `training.loop.train` returned.
        config: The model.
        stage: What was trained.
        ranks: The processes that trained together.
        synthetic: The trials among those it learned from that nobody measured.
    """
    if is_main(ranks):
        save_checkpoint(
            out,
            trained.weights,
            config,
            stage=stage.run.stage,
            seed=stage.seed,
            step=trained.step,
            vae_fingerprint=stage.run.vae or None,
            compute=stage.compute,
            stopped=trained.stopped,
            synthetic=synthetic,
        )
    ranks.each(trained.step)
