"""How a checkpoint's weights came about, beyond their configuration: for its manifest.

Types, and nothing that computes.
"""

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Stopped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where training ended that was judged on held-out images."""

    reason: Literal["patience", "last step", "diverged"]
    """``patience``: it had been no better for as many epochs as the configuration
    allows; ``last step``: there was none left; ``diverged``: a later loss was not
    finite."""
    step: Count
    """Steps taken when training ended; the weights may be of an earlier one."""
    best_step: Count
    """Step after which the weights were best: those that are kept."""
    loss: float
    """Their loss on the held-out images."""
    images: Count
    """Images held out, all trials of each."""
    trials: Count
    """Trials held out."""


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A learning rate, and since when."""

    step: Annotated[int, msgspec.Meta(ge=0)]
    """Steps taken before the first with it."""
    learning_rate: float


class Synthetic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Trials that nobody measured, predicted by an encoder of the same participant."""

    trials: Count
    """How many, beside the measured ones."""
    pictures: Count
    """Different pictures among them; none of them was held out for a test."""
    vae: Sha256
    """Fingerprint of the encoder's NeuroVAE."""
    flow: Sha256
    """Fingerprint of the encoder's flow."""
    solver: str
    """How the flow was followed."""
    steps: Count
    """Steps of the solver."""
    noise_shrinkage: float
    """How much the covariance of the added noise, that of the measured trials about
    the encoder's predictions, was shrunk to its diagonal."""
    seed: int
    """Draws noise and order."""
