"""What `neuroflow serve` tells each of its workers to load."""

import msgspec

from bci_bridge.messages import RigNote
from runtime.engine import Precision, Waiting
from runtime.signing import Trust


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker loads."""

    bundle: str
    gallery: str
    overlay: str | None = None
    """The day's calibration; None serves the bundle as it is."""
    backend: str
    precision: Precision = "f32"
    behind: tuple[str, ...] = ()
    """Backends that take over, in f32, where an engine fails."""
    waiting: Waiting | None = None
    """How TensorRT waits; None for other backends."""
    threads: int | None
    abstain_below: float
    copies: str | None = None
    """Folder of verified copies that the workers share; None: each makes its own."""
    trust: Trust
    """Keys and not files: a worker that is started again trusts nobody else."""
    rig: RigNote
    """What it computes with; looked up once, and not by each worker that starts."""
