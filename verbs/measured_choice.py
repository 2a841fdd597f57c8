"""`--backend auto`: which engine this rig serves with, measured before it serves."""

import os
import time
from pathlib import Path
from typing import Final

import msgspec

from bci_bridge.telling import tell
from runtime.auto import choose_engine
from runtime.bundle import open_bundle
from runtime.engine import Precision
from runtime.engines.cache import EngineCache, user_cache
from runtime.engines.choice import Choice
from runtime.signing import Trust
from verbs.apart import apart

AUTO: Final = "auto"
IN_CASE_OF_FAILURE: Final = ("ort", "openvino")
"""What takes over from an engine that fails, where nothing was measured."""


class MeasuredChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve with."""

    backend: str
    precision: Precision
    behind: tuple[str, ...]
    """Backends that take over where it fails, the fastest first."""
    reasons: tuple[str, ...]


def measured_choice(
    bundle: Path, *, trust: Trust, threads: int | None, copies: Path | None = None
) -> MeasuredChoice:
    """Measure in a process of its own, of which no engine stays in this one.

    Args:
        bundle: What export wrote.
        trust: Whose signature it must carry.
        threads: Of one evaluation.
        copies: Folder of verified copies; None makes a temporary one.

    Raises:
        BackendError: No engine gives the golden vectors, or the bundle is not sound.
    """

    def say(line: str) -> None:
        tell(f"neuroflow: {line}")

    def work() -> str:
        cache = EngineCache(user_cache(os.environ), say)
        with open_bundle(bundle, copies, trust=trust) as opened:
            choice = choose_engine(
                opened, threads=threads, clock=time.perf_counter_ns, cache=cache
            )
        return msgspec.json.encode(choice).decode()

    choice = msgspec.json.decode(apart("auto", work), type=Choice)
    taken, *others = choice.order
    names = dict.fromkeys(one.backend for one in others if one.precision == "f32")
    return MeasuredChoice(
        backend=taken.backend,
        precision=msgspec.convert(taken.precision, Precision),
        behind=tuple(names),
        reasons=choice.reasons,
    )
