"""ONNX to an engine through TensorRT's Python interface; needs no GPU with RTX.

One module for both: native TensorRT (10 or later) and TensorRT-RTX share the interface.
Strongly typed: the precision that the graph is written in is the one that computes.
"""

import importlib
import logging
from pathlib import Path
from typing import Any, Final, final

from runtime.engines.cache import EngineFacts, KeptEngine
from runtime.errors import BackendError

LIBRARIES: Final = ("tensorrt", "tensorrt_rtx")
"""In order: one GPU's own tuning before what runs on any of them."""
_KEPT_LINES: Final = 3

log = logging.getLogger(__name__)


def import_tensorrt() -> Any:
    """Import native TensorRT, or TensorRT-RTX where that is what is installed.

    Raises:
        BackendError: Neither is, or it does not load.
    """
    found: list[str] = []
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            found.append(f"{name}: {_line(error)}")
    raise BackendError(
        "tensorrt: expected the library tensorrt or tensorrt_rtx, found "
        f"{'; '.join(found) or 'none'}. Install the extra tensorrt or rtx."
    )


def is_rtx(library: Any) -> bool:
    """Say whether a library is TensorRT-RTX, which tunes on the device itself."""
    return bool(library.__name__.endswith("_rtx"))


def logger_of(library: Any) -> Any:
    """Return a logger that keeps the library's last complaints in `lines`.

    The library writes to standard error otherwise, and answers None.
    """

    @final
    class Complaints(library.ILogger):  # type: ignore[misc]  # of a library unknown here
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (self.INTERNAL_ERROR, self.ERROR):
                self.lines = [*self.lines, " ".join(msg.split())][-_KEPT_LINES:]
            else:
                log.debug("%s", msg)

    return Complaints()


def build_engine(
    library: Any,
    path: Path,
    what: str,
    *,
    device: str = "",
    kept: KeptEngine | None = None,
) -> bytes:
    """Compile a graph.

    Args:
        library: What `import_tensorrt` gave.
        path: The graph's file; its weights lie beside it.
        what: Its name in an error.
        device: Identity of the GPU that native TensorRT measures its kernels on.
        kept: Where native TensorRT keeps what it measured of its kernels.

    Raises:
        BackendError: An operator is not supported, or the compiler failed.
    """
    logger = logger_of(library)
    builder = _created(library.Builder(logger), "a builder", what, logger)
    flags = 0
    typed = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if typed is not None:
        flags = 1 << int(typed)
    network = _created(builder.create_network(flags), "a network", what, logger)
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise BackendError(f"tensorrt: {what}: {_parser_errors(parser, logger)}")
    config = builder.create_builder_config()
    tf32 = getattr(library.BuilderFlag, "TF32", None)
    if tf32 is not None:
        # On by default, and ten bits of mantissa where the graph says float32.
        config.clear_flag(tf32)
    timing = None
    # RTX would ask for a GPU, which its compiler does not need.
    if kept is not None and not is_rtx(library):
        timing = _begin_timing(library, config, device, kept)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(
            f"tensorrt: {what}: expected an engine, found "
            f"{'; '.join(logger.lines) or 'none'}"
        )
    if timing is not None and kept is not None:
        times = bytes(config.get_timing_cache().serialize())
        kept.cache.store(timing, times, is_engine=False)
    return bytes(engine)


def _begin_timing(
    library: Any, config: Any, device: str, kept: KeptEngine
) -> EngineFacts:
    """Give the compiler what it measured for the same graph before, if that is kept."""
    facts = kept.facts("tensorrt-timing", library.__version__, device, ())
    found = kept.cache.load(facts, is_engine=False)
    cache = config.create_timing_cache(b"" if found is None else found.tobytes())
    # True would let a cache of another device in.
    config.set_timing_cache(cache, ignore_mismatch=False)
    return facts


def unsupported(library: Any, path: Path) -> list[str]:
    """Return a line for everything in a graph that the library cannot compile."""
    logger = logger_of(library)
    builder = _created(library.Builder(logger), "a builder", path.name, logger)
    # The parser does not keep its network alive, and would read freed memory.
    network = _created(builder.create_network(0), "a network", path.name, logger)
    parser = library.OnnxParser(network, logger)
    if parser.supports_model_v2(path.read_bytes(), str(path)):
        return []
    return [_parser_errors(parser, logger)]


def _created(found: Any, name: str, what: str, logger: Any) -> Any:
    if found is None:
        raise BackendError(
            f"tensorrt: {what}: expected {name}, found "
            f"{'; '.join(logger.lines) or 'none'}"
        )
    return found


def _parser_errors(parser: Any, logger: Any) -> str:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    lines = [f"{_line(e.desc())} (node {e.node_name()})" for e in found]
    return "; ".join(lines or logger.lines or ["the parser says no more"])


def _line(error: object) -> str:
    return " ".join(str(error).split())
