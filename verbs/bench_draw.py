"""A process that draws a preset's model; started by `neuroflow bench`, not by users.

What torch takes for a model of the paper's size it does not all give back, and what is
measured next should have the machine for itself.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from runtime.engine import Precision
from runtime.errors import BackendError, NeuroFlowError, UsageError
from training.config import ModelConfig


class Draw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be drawn, and where it goes."""

    config: ModelConfig
    out: str
    created: str
    seed: int
    precisions: tuple[Precision, ...]


class Drawn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bundle is, or why there is none."""

    bundle: str = ""
    failure: str = ""
    is_misused: bool = False
    """What failed is the user's to mend, as a missing extra is."""


def drawn(draw: Draw) -> Path:
    """Return the bundle, drawn and exported by a process of its own.

    Raises:
        UsageError: What draws it is not installed.
        BackendError: It failed otherwise, or was killed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "verbs.bench_draw"],
        input=msgspec.json.encode(draw),
        stdout=subprocess.PIPE,
        check=False,
    )
    if not done.stdout:
        raise BackendError(
            f"preset {draw.config.preset}: expected a model of its size, found the "
            f"process that draws it dead (status {done.returncode}). At the paper's "
            "size it needs about 6 GB"
        )
    reply = msgspec.json.decode(done.stdout, type=Drawn)
    if reply.failure:
        raise (UsageError if reply.is_misused else BackendError)(reply.failure)
    return Path(reply.bundle)


def answer(asked: bytes) -> Drawn:
    """Draw it here."""
    draw = msgspec.json.decode(asked, type=Draw)
    preset = f"preset {draw.config.preset}"
    try:
        from verbs.bench_preset import write_preset
    except ImportError as error:
        failure = (
            f"{preset}: expected the extra train, which draws and exports its "
            f"weights, found no {error.name}. Install it, or measure a bundle."
        )
        return Drawn(failure=failure, is_misused=True)
    try:
        bundle = write_preset(
            draw.config,
            Path(draw.out),
            created=draw.created,
            seed=draw.seed,
            precisions=draw.precisions,
        )
    except NeuroFlowError as error:
        return Drawn(failure=str(error), is_misused=isinstance(error, UsageError))
    except OSError as error:
        return Drawn(
            failure=f"{preset}: expected room for its bundle in {draw.out}, "
            f"found: {error.strerror or error}"
        )
    return Drawn(bundle=str(bundle))


def main() -> int:
    """Read what is asked, draw it, say where it is."""
    # Libraries print; what they print must not be taken for the answer.
    with os.fdopen(os.dup(1), "wb") as said:
        os.dup2(2, 1)
        try:
            reply = answer(sys.stdin.buffer.read())
        except KeyboardInterrupt:
            return 130
        said.write(msgspec.json.encode(reply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
