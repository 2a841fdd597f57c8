"""The same weights in torch, as a peer: the modules as they were trained.

`torch` runs them as they are, `torch-compile` through its compiler; in bfloat16 both
are converted to it as a whole. `torch-autocast` keeps float32 weights, which torch
converts where it multiplies. The flow's state is in float32, as in the engines. All
embed the flow time at every evaluation, as the published code does; engines have it in
a table. All compute z_n alone, as a server does, and no retrieval features; but the
modules are not folded: the log-variance is computed with the mean and let go, and
attention has its four maps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from runtime.bench.result import AUTOCAST, COMPILED
from runtime.bundle import Bundle
from runtime.errors import BackendError, ParityError
from runtime.solver import solve, solver_from_name, time_grid
from training.config import config_from_json
from training.neurovae import NeuroVAE
from training.sit import SiT
from verbs.bench_engines import Call, Stages
from verbs.bench_orders import Job
from verbs.bench_preset import CONFIG

LIMITS = {"f32": 1e-3, "bf16": 5e-2}
"""Relative L2 distance from the bundle's golden vectors."""


@contextmanager
def _arithmetic(peer: str) -> Iterator[None]:
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16, enabled=peer == AUTOCAST),
    ):
        yield


def open_torch(bundle: Bundle, job: Job) -> Stages:
    """Load a preset's weights and return the stages that torch has.

    Raises:
        BackendError: There are no such weights.
        ParityError: It does not compute the golden vectors.
    """
    if job.weights is None:
        raise BackendError(
            f"{job.who.peer}: expected a preset's weights, found a bundle alone"
        )
    torch.set_num_threads(job.who.threads)
    weights = Path(job.weights)
    config = config_from_json((weights / CONFIG).read_bytes())
    is_whole = job.who.precision == "bf16" and job.who.peer != AUTOCAST
    dtype = torch.bfloat16 if is_whole else torch.float32
    vae, field = NeuroVAE(config.vae).eval(), SiT(config.flow).eval()
    for name, module in (("vae", vae), ("flow", field)):
        module.load_state_dict(load_file(weights / f"{name}.safetensors"))
        module.to(dtype)
    flow = bundle.manifest.flow
    solver = solver_from_name(flow.solver, flow.path)
    golden = {k: torch.from_numpy(v.copy()) for k, v in bundle.golden().items()}

    def encode(voxels: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = vae.encode(voxels.to(dtype))
        return out.float()

    def velocity(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = field(z.to(dtype), t)
        return out.float()

    def decode(z_n: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = vae.decode(z_n.to(dtype))
        return out.float()

    compiled = _compiler(job.who.peer)
    encode_c, velocity_c, decode_c = map(compiled, (encode, velocity, decode))

    def run(n: int) -> torch.Tensor:
        with _arithmetic(job.who.peer):
            out: torch.Tensor = solve(
                lambda z, t: velocity_c(z, torch.tensor([t], dtype=torch.float32)),
                golden["z_n"],
                time_grid(n // solver.evaluations, "decode"),
                solver,
            )
        return out

    def encoder() -> torch.Tensor:
        with _arithmetic(job.who.peer):
            found: torch.Tensor = encode_c(golden["voxels"])
        return found

    def decoder() -> torch.Tensor:
        with _arithmetic(job.who.peer):
            found: torch.Tensor = decode_c(golden["z_n_encoded"])
        return found

    centre = torch.from_numpy(bundle.latent_mean * np.float32(flow.is_centred))
    for what, found, wanted in (
        ("encoder", encoder(), golden["z_n"]),
        ("flow", run(flow.decode_evaluations) + centre, golden["z_v"]),
        ("decoder", decoder(), golden["voxels_predicted"]),
    ):
        _check(f"{job.who} {what}", wanted, found, LIMITS[job.who.precision])

    def flow_of(n: int) -> Call:
        return lambda: run(n)

    calls = {
        "encoder": encoder,
        "served flow": flow_of(flow.decode_evaluations),
        "decoder": decoder,
    }
    return Stages(calls, flow_of, lambda: None)


def _compiler(peer: str) -> Callable[[Any], Any]:
    if peer == COMPILED:
        return lambda function: torch.compile(function, dynamic=False)
    return lambda function: function


def _check(what: str, wanted: torch.Tensor, found: torch.Tensor, limit: float) -> None:
    a, b = wanted.double().numpy(), found.double().numpy()
    error = float(np.linalg.norm(a - b) / np.linalg.norm(a))
    if not error <= limit:
        raise ParityError(
            f"{what}: expected relative L2 error <= {limit:g} to the engines, "
            f"found {error:.3g}"
        )
