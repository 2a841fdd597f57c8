"""Many processes through Hugging Face Accelerate: replicas (DDP) or shards (FSDP2).

Accelerate starts the processes, finds the device and reads the settings of its FSDP
plugin. Sharding itself is torch's `fully_shard` with those settings: Accelerate's own
call does nothing on CPUs, and what cannot run on CPUs cannot be tested everywhere.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from runtime.errors import ConfigError


class Accelerated:
    """`training.ranks.Ranks` of a run under ``accelerate launch``."""

    def __init__(self) -> None:
        sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        self._plugin = _plugin() if sharded else None
        # Precision is ours (`training.compute`), whatever the launcher was told. And
        # without being told Accelerate takes processes on CPUs for strangers.
        self._accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision="no",
            fsdp_plugin=self._plugin,
            dynamo_backend="no",
        )
        self.count: int = self._accelerator.num_processes
        started = int(os.environ.get("WORLD_SIZE", self.count))
        if started != self.count:
            raise ConfigError(
                f"processes: expected the {started} that were started, "
                f"found a group of {self.count}"
            )
        self.index: int = self._accelerator.process_index
        self.device: torch.device = self._accelerator.device
        self.is_sharded = sharded and self.count > 1

    def close(self) -> None:
        """Leave the group of processes."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, module: nn.Module, pieces: Sequence[nn.Module]) -> nn.Module:
        """Replicate or shard a module.

        Raises:
            ConfigError: It is compiled, which shards are not tested with.
        """
        if self.count == 1:
            return module
        if self._plugin is None:
            replicated: nn.Module = self._accelerator.prepare_model(module)
            return replicated
        if module._compiled_call_impl is not None:
            raise ConfigError(
                "compile: expected it with replicas or one process, found it with "
                "FSDP. Train without --compile, or without FSDP."
            )
        # Nothing here writes into what the module returned.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
        settings = {
            "mesh": init_device_mesh(self.device.type, (self.count,)),
            "reshard_after_forward": self._plugin.reshard_after_forward,
            "offload_policy": self._plugin.cpu_offload,
        }
        for piece in pieces:
            fully_shard(piece, **settings)
        # The root's leftovers are needed again at once in the backward pass.
        fully_shard(module, **settings | {"reshard_after_forward": False})
        return module

    def accumulating(
        self, wrapped: nn.Module, *, is_last: bool
    ) -> AbstractContextManager[object]:
        """Exchange gradients after the last part only."""
        if isinstance(wrapped, FSDPModule):
            return _synchronising(wrapped, is_last)
        if is_last or self.count == 1:
            return nullcontext()
        context: AbstractContextManager[object] = self._accelerator.no_sync(wrapped)
        return context

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes with the true gradient."""
        if self.count == 1:
            return rows
        gathered: Tensor = _GatherRows.apply(rows)
        return gathered

    def mean(self, numbers: Tensor) -> Tensor:
        """Return the mean over processes, summed in float64."""
        if self.count == 1:
            return numbers
        total = numbers.to(torch.float64)
        dist.all_reduce(total)
        return total / self.count

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather a sharded tensor; return any other as it is."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:
        """Cut this process' shard out of a tensor that every process has read."""
        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(
            whole.to(like.device),
            like.device_mesh,
            like.placements,
            src_data_rank=None,
        )

    def agreed(self, value: int) -> int:
        """Return the main process' value."""
        if self.count == 1:
            return value
        held = torch.tensor(value, device=self.device)
        dist.broadcast(held, src=0)
        return int(held)

    def each(self, value: int) -> list[int]:
        """Return every process' value."""
        if self.count == 1:
            return [value]
        own = torch.tensor([value], device=self.device)
        held = torch.empty(self.count, dtype=own.dtype, device=self.device)
        dist.all_gather_into_tensor(held, own)
        return [int(v) for v in held.tolist()]


class _GatherRows(torch.autograd.Function):
    """All rows of all processes; the backward pass needs no exchange.

    Every process computes the same scalar L from the gathered rows, so that each knows
    dL / d(all rows) already and keeps its own. Gradients are averaged over the n
    processes afterwards, which would leave 1 / n of the sum: hence the factor n.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        n = dist.get_world_size()
        out = rows.new_empty((n * len(rows), *rows.shape[1:]))
        dist.all_gather_into_tensor(out, rows.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        first = dist.get_rank() * ctx.rows
        own = gradients[0][first : first + ctx.rows]
        return own * dist.get_world_size()


@contextmanager
def _synchronising(module: FSDPModule, is_last: bool) -> Iterator[None]:
    module.set_requires_gradient_sync(is_last)
    module.set_is_last_backward(is_last)
    yield


def _plugin() -> FullyShardedDataParallelPlugin:
    """Read the launcher's settings.

    Raises:
        ConfigError: The first version of FSDP is asked for.
    """
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(
            f"FSDP: expected version 2, found {version}. "
            "Launch with --fsdp_version 2, or without --use_fsdp for replicas."
        )
    return FullyShardedDataParallelPlugin()
