"""A worker of `neuroflow serve`, as the supervisor starts it: not for users."""

import contextlib
import os
import sys
from pathlib import Path

import msgspec

from bci_bridge.decoder import Decoder
from bci_bridge.setup import Setup
from bci_bridge.telling import tell
from bci_bridge.worker_part import run_worker
from runtime.engines.cache import EngineCache, user_cache
from runtime.errors import NeuroFlowError
from runtime.graphs import SERVED
from runtime.live import open_decoder
from verbs.served_model import Model


def _say(line: str) -> None:
    tell(f"neuroflow: {line}")


def main(arguments: list[str]) -> int:
    """Load a model and answer with it; model, setup file and name are the arguments."""
    model_json, setup_file, name = arguments
    model = msgspec.json.decode(model_json, type=Model)
    setup = msgspec.json.decode(Path(setup_file).read_bytes(), type=Setup)

    cache = EngineCache(user_cache(os.environ), _say)

    def opened(stack: contextlib.ExitStack) -> Decoder:
        decoder = stack.enter_context(
            open_decoder(
                Path(model.bundle),
                Path(model.gallery),
                backend=model.backend,
                precision=model.precision,
                behind=model.behind,
                waiting=model.waiting,
                threads=model.threads,
                abstain_below=model.abstain_below,
                trust=model.trust,
                cache=cache,
                overlay_folder=None if model.overlay is None else Path(model.overlay),
                parts=SERVED,
                copies=None if model.copies is None else Path(model.copies),
            )
        )
        if line := cache.counts.line():
            _say(f"{name}: {decoder.model.backend} {model.precision}: {line}")
        return decoder

    def engines() -> dict[str, int]:
        counts = msgspec.structs.asdict(cache.counts)
        return counts if any(counts.values()) else {}

    try:
        run_worker(setup, name, opened, model.rig, engines)
    except NeuroFlowError as error:
        # On record for the supervisor, which says it where it matters.
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
