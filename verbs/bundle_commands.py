"""The verbs that make a bundle out of checkpoints, and say what is in one.

Part of the command line (`neuroflow.py`): each function parses, and imports its verb
when it is called.
"""

from pathlib import Path
from typing import Literal

import tyro

Backend = Literal["ort", "openvino"]
AnyBackend = Literal["ort", "openvino", "ort_cuda", "tensorrt", "reference"]
Precision = Literal["f32", "f16", "bf16", "int8", "fp8"]
KeptBackend = Literal["openvino", "tensorrt"]


def export(
    *,
    vae: Path,
    flow: Path,
    out: Path,
    recording: Path | None = None,
    trials: Path | None = None,
    solver: str = "rotation",
    steps: int = 2,
    backend: Backend = "ort",
    precisions: tuple[Precision, ...] = ("f32",),
) -> None:
    """Compile two checkpoints into OUT/bundle, and a calibrated OUT/gallery beside it.

    Args:
        vae: Checkpoint of stage 1.
        flow: Checkpoint of stage 2.
        out: Folder for `bundle` and `gallery`.
        recording: The BIDS folder that they were trained on.
        trials: The prepared trials that they were trained on, instead.
        solver: euler, rotation or heun.
        steps: Solver steps of each direction.
        backend: Engine that the calibration runs on.
        precisions: What to write graphs in, f32 among them; each must pass its gate.
    """
    from verbs.export import export_checkpoints

    export_checkpoints(
        vae,
        flow,
        out,
        recording=recording,
        trials=trials,
        solver=solver,
        steps=steps,
        backend=backend,
        precisions=precisions,
    )


def verify(
    bundle: tyro.conf.Positional[Path],
    /,
    *,
    overlay: Path | None = None,
    backend: AnyBackend = "ort",
    precision: Precision = "f32",
    json: bool = False,
) -> None:
    """Hold a bundle's engines against its golden vectors on this machine, torch-free.

    Args:
        bundle: A bundle's folder.
        overlay: The day's overlay; must be whole, and this bundle's.
        backend: Engine library; reference computes in float64, for small bundles.
        precision: Of the arithmetic; every map and step must pass its gate;
            those of chains and retrieval are not asked again.
        json: Print JSON.
    """
    from verbs.verify import verify_bundle

    verify_bundle(
        bundle, overlay=overlay, backend=backend, precision=precision, as_json=json
    )


def compile(  # noqa: A001  # the verb's name
    bundle: tyro.conf.Positional[Path],
    /,
    *,
    backend: KeptBackend = "openvino",
    precision: Precision = "f32",
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Build a bundle's engines before they are needed, and keep them for this user.

    Args:
        bundle: A bundle's folder.
        backend: Engine library whose engines can be kept; ort compiles at each start.
        precision: Of the arithmetic; half where the processor has it or the graph is
            written in it.
        threads: Threads of one evaluation; give what `serve` will be given.
        json: Print JSON.
    """
    from verbs.compile import compile_bundle

    compile_bundle(
        bundle, backend=backend, precision=precision, threads=threads, as_json=json
    )


def inspect(
    bundle: tyro.conf.Positional[Path],
    /,
    *,
    trust: tyro.conf.UseAppendAction[tuple[Path, ...]] = (),
    json: bool = False,
) -> None:
    """Say what a bundle holds and who signed it, after checking that it is true.

    Args:
        bundle: A bundle's folder, or an overlay's.
        trust: NAME.pub or a folder of them; it must be signed by one of these.
        json: Print the manifest as JSON.
    """
    from verbs.inspect import inspect_folder

    inspect_folder(bundle, trust=trust, as_json=json)
