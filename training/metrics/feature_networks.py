"""The networks that the papers' image metrics look through, from local weights only.

Weights come from an explicit file or from torchvision's cache. Where there are none, a
network is `Absent` with the reason: a random network also gives numbers, which mean
nothing. Nothing is downloaded unless it is asked for.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, final, get_args
from urllib.error import URLError

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.data.files import begins
from training.metrics.network_specs import NETWORKS, NetworkSpec
from training.metrics.result import Absent

NetworkName = Literal["inception", "alexnet", "clip", "efficientnet", "swav"]
NAMES: Final[tuple[NetworkName, ...]] = get_args(NetworkName)

BATCH: Final = 16


@final
@dataclass(frozen=True, slots=True, eq=False)
class FeatureNetwork:
    """A network with weights, ready to look at images."""

    spec: NetworkSpec
    module: nn.Module
    weights: str
    """Name of the weights' file."""
    sha256: str
    """Hash of that file."""

    def features(
        self, images: UInt8[np.ndarray, "images rows columns 3"]
    ) -> dict[str, Float32[np.ndarray, "images features"]]:
        """Return the flattened features of every layer of the spec, by its name.

        Args:
            images: 8-bit RGB of any one size; square ones, as in the papers.
        """
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.spec.layers}
        for first in range(0, len(images), BATCH):
            batch = self.spec.prepare(images[first : first + BATCH])
            for name, found in self._read(batch).items():
                parts[name].append(found.flatten(1).numpy())
        return {name: np.concatenate(found) for name, found in parts.items()}

    def _read(self, batch: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                # A copy: the next layer may work in place.
                found[name] = output.detach().float().clone()

            return hook

        handles = [
            self.module.get_submodule(path).register_forward_hook(keep(name))
            for name, path in self.spec.layers.items()
        ]
        try:
            with torch.inference_mode():
                self.module(batch)
        finally:
            for handle in handles:
                handle.remove()
        return found


def open_network(
    name: NetworkName,
    weights: Path | None = None,
    *,
    download: bool = False,
    specs: Mapping[str, NetworkSpec] = MappingProxyType(NETWORKS),
) -> FeatureNetwork | Absent:
    """Open a network with trained weights, or say why it cannot be had.

    Args:
        name: Which one.
        weights: A safetensors file or a state dict of torch; None: torchvision's cache.
        download: Let torchvision download its own weights into its cache.
        specs: The networks; tests have smaller ones.
    """
    spec = specs[name]
    file = weights or spec.cached()
    if download and weights is None and not file.is_file():
        reason = _download(spec)
        if reason is not None:
            return Absent(reason)
    if not file.is_file():
        return Absent(
            f"no weights: expected {file.name} in torchvision's cache or a file given "
            f"by --weights {name}=FILE, found none"
            if weights is None
            else f"no weights: expected the file {file.name}, found none"
        )
    digest = _sha256(file)
    if weights is None and not digest.startswith(spec.hash_prefix):
        return Absent(
            f"{file.name}: expected sha256 {spec.hash_prefix}..., found {digest[:12]}. "
            "The download broke off, or it is another file."
        )
    try:
        module = _with_weights(spec, _read_state(file))
    except SafetensorError:
        return Absent(
            f"{file.name}: expected weights of {name}, found no whole safetensors file "
            f"({begins(file)})"
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        return Absent(f"{file.name}: expected weights of {name}, found {_line(error)}")
    return FeatureNetwork(spec, module, file.name, digest)


def _download(spec: NetworkSpec) -> str | None:
    if spec.url is None:
        return f"no weights: torchvision has none of {spec.title}; give a file"
    try:
        torch.hub.load_state_dict_from_url(
            spec.url, progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        return f"no weights: downloading {spec.cached().name} failed: {_line(error)}"
    return None


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_state(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    # weights_only: a file of weights must not be able to run anything.
    try:
        # Nor its warnings, of how a pickle was written: one line says what is wrong.
        with warnings.catch_warnings(action="ignore"):
            state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # its kinds are torch's, zipfile's and the pickle's
        # Not its words: they are advice to load the file unsafely.
        raise ValueError(
            f"no state dict that is read without running code ({begins(file)}). Save "
            "the tensors as safetensors"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in state.items()
    ):
        raise TypeError("another thing than a state dict: names, each with a tensor")
    return state


def _with_weights(spec: NetworkSpec, state: dict[str, Tensor]) -> nn.Module:
    """Build the network and give it exactly its weights.

    Raises:
        ValueError: A tensor that the layers need is missing or has another shape.
    """
    # On "meta" nothing is initialised, so that no random weight can be left over.
    with torch.device("meta"):
        module = spec.build()
    wanted = module.state_dict()
    known = {spec.rename(name): value for name, value in state.items()}
    for name in wanted:
        if name.endswith("num_batches_tracked"):
            # Counts training batches; older files lack it and nothing here reads it.
            known.setdefault(name, torch.zeros((), dtype=torch.long))
    missing = sorted(wanted.keys() - known.keys())
    if missing:
        raise ValueError(f"no {missing[0]} ({len(missing)} tensors missing)")
    for name, tensor in wanted.items():
        if known[name].shape != tensor.shape:
            raise ValueError(
                f"{name} of shape {tuple(known[name].shape)}, not {tuple(tensor.shape)}"
            )
    chosen = {
        name: known[name].to(tensor.dtype)
        if tensor.is_floating_point()
        else known[name]
        for name, tensor in wanted.items()
    }
    module.load_state_dict(chosen, assign=True)
    return module.eval().requires_grad_(False)
