"""A process that trains, alone or with others; tests start it and end it.

    python -m tests.ranked OUT [--micro-batch N] [--batch N] [--stop-at STEP] ...

Trains both stages of the smallest model and leaves their folders in OUT.
"""

import argparse
import sys
from pathlib import Path

import msgspec
import numpy as np

from training.compute import Compute
from training.config import ModelConfig, config_from_preset
from training.fit import Progress, fit_flow, fit_neurovae
from training.ranks import launched_ranks
from training.trials import TrialSet


def noisy(
    batch: int = 8, epochs: int = 2, *, dropout: float = 0.0, held_out: float = 0.0
) -> ModelConfig:
    """The smallest model with every random draw that training knows.

    With `dropout` tokens are hidden too; with `held_out` it may stop early.
    """
    config = config_from_preset("tiny")
    return msgspec.structs.replace(
        config,
        validation_share=held_out,
        vae_training=msgspec.structs.replace(
            config.vae_training,
            batch=batch,
            epochs=epochs,
            voxel_noise=0.3,
            voxel_dropout=0.4,
            token_dropout=dropout,
        ),
        flow_training=msgspec.structs.replace(
            config.flow_training,
            voxel_noise=0.5,
            steps=4 * epochs,
            token_dropout=dropout,
        ),
    )


def trials(n: int = 24) -> TrialSet:
    """Random trials of eight images."""
    rng = np.random.default_rng(0)
    return TrialSet(
        rng.standard_normal((n, 37)).astype(np.float32),
        np.arange(n) % 8,
        rng.standard_normal((8, 8, 12)).astype(np.float32),
    )


def ticking():
    """A clock of one second a look: a snapshot's time is then a count of steps."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    return clock


def main() -> None:
    """Train both stages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--interrupt-at", type=int)
    parser.add_argument("--snapshot-every", type=int, default=2)
    parser.add_argument("--announce", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--held-out", type=float, default=0.0)
    given = parser.parse_args()
    config = noisy(
        given.batch, given.epochs, dropout=given.dropout, held_out=given.held_out
    )
    compute = Compute(
        precision=given.precision,
        checkpoint_activations=given.checkpoint_activations,
        micro_batch=given.micro_batch,
    )

    def on_step(progress: Progress) -> None:
        if given.announce:
            sys.stdout.write(f"{progress.stage} {progress.step}\n")
            sys.stdout.flush()
        if progress.step == given.stop_at:
            raise RuntimeError("stopped on purpose")
        if progress.step == given.interrupt_at:
            raise KeyboardInterrupt

    with launched_ranks() as ranks:
        common = {
            "ranks": ranks,
            "device": str(ranks.device),
            "on_step": on_step,
            "clock": ticking(),
            "snapshot_every_s": float(given.snapshot_every),
        }
        vae = fit_neurovae(
            config, trials(), given.out / "vae", compute=compute, **common
        )
        fit_flow(
            config,
            trials(),
            vae,
            given.out / "flow",
            compute=compute,
            **common,
        )


if __name__ == "__main__":
    main()
