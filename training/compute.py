"""How training computes: precision, parts of a batch, memory for time, compilation.

None of it is part of the model: `ModelConfig` and its fingerprint do not know it. What
changes numbers is part of a run's identity, so that a run resumes as it began.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import msgspec
import torch
from torch import nn

from runtime.errors import BackendError, ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Compute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a training step is computed; the defaults are the published way."""

    precision: Precision = "fp32"
    """Of matrix products. Weights, their average and losses are float32 in any case."""
    micro_batch: int | None = None
    """Rows that a process computes at a time; None computes its whole share at once."""
    checkpoint_activations: bool = False
    """Whether activations are computed again in the backward pass instead of kept."""
    compile: bool = False
    """Whether the module runs through ``torch.compile``."""

    def __post_init__(self) -> None:
        """Refuse parts without a row.

        Raises:
            ConfigError: One clear line with the number.
        """
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError(
                f"micro_batch: expected at least 1, found {self.micro_batch}"
            )

    @property
    def identity(self) -> str:
        """What of this changes numbers, if only by rounding."""
        parts: list[str] = [self.precision]
        if self.micro_batch is not None:
            parts.append(f"micro-batch {self.micro_batch}")
        if self.checkpoint_activations:
            # Gradients of a weight that is used twice are then added in another order.
            parts.append("recomputed")
        if self.compile:
            parts.append("compiled")
        return ", ".join(parts)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which a module computes in this precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=_HALVES[self.precision])

    def slow_on(self, device: torch.device) -> str:
        """Say that a processor has no instructions for this precision; else nothing.

        It then computes by way of float32, and a step takes several times as long.
        """
        if self.precision == "fp32" or device.type != "cpu":
            return ""
        if _has_instructions(self.precision):
            return ""
        return (
            f"this processor lacks {self.precision}: steps take several times those of "
            "fp32"
        )

    def prepare(self, module: nn.Module) -> None:
        """Compile a module in place, where asked for: its names stay as they are."""
        if self.compile:
            module.compile()

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Turn a failed compilation into one clear line.

        Raises:
            BackendError: torch could not compile the module.
        """
        if not self.compile:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException

        try:
            yield
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            first = str(cause).strip().partition("\n")[0]
            raise BackendError(
                "compile: expected torch.compile to succeed, found "
                f"{type(cause).__name__}: {first}. Train without compiling, or install "
                "what it needs."
            ) from error


def _has_instructions(half: Precision) -> bool:
    """Say whether the processor multiplies in 16 bits; True where torch cannot tell."""
    # Not in every version of torch; on other processors with other names.
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = ask()
    if capabilities.get("architecture") != "x86_64":
        return True
    names = (
        ("avx512_bf16", "amx_bf16") if half == "bf16" else ("avx512_fp16", "amx_fp16")
    )
    return any(bool(capabilities.get(name)) for name in names)


AS_PUBLISHED = Compute()
"""float32, whole batches, everything kept, nothing compiled."""
