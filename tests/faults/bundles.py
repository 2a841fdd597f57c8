"""Malicious and mismatched bundles, galleries and overlays: refused, and where that is
possible before anything of theirs is parsed.

No case may reach a graph's parser in an engine's library: those of the file are seen
by the loader, those of the graph by our own reader. What is wrong within a tensors'
file is seen by who has parsed it, and every other case must be refused before that.
"""

import importlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from runtime import engine, sealed
from runtime.bundle import Bundle, open_bundle
from runtime.engine import open_engine
from runtime.errors import BundleError, NeuroFlowError
from runtime.gallery import open_gallery
from runtime.manifest import LatentSpec
from runtime.overlay import open_overlay
from tests.faults.bundle_files import file_cases
from tests.faults.bundle_folder import (
    GRAPH,
    KINDS,
    MANIFESTS,
    Case,
    Kind,
    copy_of,
    fingerprint,
    relisted,
    write_base,
)
from tests.faults.bundle_manifests import manifest_cases
from tests.faults.bundle_payloads import payload_cases, sound_graph
from tests.faults.recordings import scratch
from tests.faults.result import NONE, Bound, Fault, Finding, Settings

GRAPH_PARSERS = (
    "onnxruntime.InferenceSession", "onnx.load", "onnx.load_model",
    "onnx.load_from_string", "onnx.load_model_from_string",
)  # fmt: skip
TENSOR_PARSERS = (
    "safetensors.safe_open", "safetensors.deserialize", "safetensors.numpy.load",
    "safetensors.numpy.load_file", "runtime.bundle.load_file",
)  # fmt: skip
"""Everything in the process that could read a payload."""

SLOWEST_MS = {"full": 5_000, "short": 60_000}
"""The short form shares its machine with other tests."""

LATENT = LatentSpec(tokens=3, width=4)


class ParserReachedError(BaseException):
    """A payload met a parser; no `except Exception` may hide that."""


@contextmanager
def alarmed(parsers: Sequence[str]) -> Iterator[None]:
    """Make parsers raise, by the names under which they are called."""

    def alarm(*_args: object, **_options: object) -> None:
        raise ParserReachedError

    with ExitStack() as stack:
        for name in parsers:
            module, _, attribute = name.rpartition(".")
            target = importlib.import_module(module)
            stack.enter_context(mock.patch.object(target, attribute, alarm))
        yield


@dataclass
class Tally:
    """What became of the cases."""

    accepted: int = 0
    parsed_before_refusal: int = 0
    graphs_parsed: int = 0
    """Of these, cases that our own reader of graphs had to see."""
    other_exceptions: int = 0
    not_a_bundle_error: int = 0
    """Refused by the loader with another typed error than its own."""
    left_behind: int = 0
    slowest_ms: float = 0.0
    skipped: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def judge(self, case: Case, folder: Path, bundle: Bundle, left: Path) -> None:
        """Open a spoiled folder and say what is wrong with how it was refused."""
        begin = time.monotonic()
        try:
            with ExitStack() as stack:
                stack.enter_context(alarmed(GRAPH_PARSERS))
                if case.seen_by == "loader":
                    stack.enter_context(alarmed(TENSOR_PARSERS))
                opened(case, folder, bundle)
        except BundleError:
            pass
        except NeuroFlowError as error:
            if case.seen_by == "loader":
                self.not_a_bundle_error += 1
                self._note(case, f"refused with {type(error).__name__}: {error}")
        except ParserReachedError:
            self.parsed_before_refusal += 1
            self.graphs_parsed += case.seen_by == "guard"
            self._note(case, "a parser met it")
        except Exception as error:
            self.other_exceptions += 1
            self._note(case, f"{type(error).__name__}: {str(error)[:200]}")
        else:
            self.accepted += 1
            self._note(case, "accepted")
        self.slowest_ms = max(self.slowest_ms, (time.monotonic() - begin) * 1000)
        for path in left.iterdir():
            self.left_behind += 1
            self._note(case, f"left {path.name} behind")
            shutil.rmtree(path, ignore_errors=True)

    def _note(self, case: Case, what: str) -> None:
        self.examples.append(f"{case.name}: {what}")


def opened(case: Case, folder: Path, bundle: Bundle) -> None:
    """Open a folder as a rig does, as far as the case's fault could be met.

    Args:
        case: What is wrong with it.
        folder: The folder.
        bundle: A sound one, to which a sound overlay belongs.
    """
    if case.kind == "gallery":
        open_gallery(folder, LATENT)
        return
    if case.kind == "overlay":
        open_overlay(folder, bundle)
        return
    with open_bundle(folder) as found:
        found.golden()
        if case.needs_engine:
            graph = found.manifest.graph("encoder")
            file = found.graph_file("encoder")
            open_engine("ort", file, graph, threads=1).close()


def _bases(folder: Path) -> dict[Kind, Path]:
    bases = {kind: folder / kind for kind in KINDS}
    for kind, base in bases.items():
        write_base(kind, base, bases["bundle"])
    return bases


def _controls(bases: dict[Kind, Path], folder: Path, bundle: Bundle) -> tuple[int, int]:
    """Open sound folders, without and with alarms.

    A loader that refuses all proves nothing, and neither do parsers that nobody calls.

    Returns:
        How many opened, and in how many the alarm went off that should.
    """

    def unspoiled(_: Path) -> None:
        return

    controls = [(Case(kind, kind, unspoiled), TENSOR_PARSERS) for kind in bases]
    graph = relisted("bundle", GRAPH, sound_graph())
    controls.append((Case("graph", "bundle", graph, needs_engine=True), GRAPH_PARSERS))
    n_alarms = 0
    for case, parsers in controls:
        copy_of(bases[case.kind], folder / case.name)
        case.change(folder / case.name)
        opened(case, folder / case.name, bundle)
        try:
            with alarmed(parsers):
                opened(case, folder / case.name, bundle)
        except ParserReachedError:
            n_alarms += 1
    return len(controls), n_alarms


def run(settings: Settings) -> Finding:
    """Spoil a sound folder in every way, and open each."""
    tally, prints, seen = Tally(), set[str](), set[str]()
    with scratch() as folder, ExitStack() as stack:
        left = folder / "left"
        left.mkdir()
        bases = _bases(folder / "bases")
        # Before the folder of what is left behind: its copy is there to the end.
        bundle = stack.enter_context(open_bundle(bases["bundle"]))
        stack.enter_context(mock.patch.object(tempfile, "tempdir", str(left)))
        n_sound, n_alarms = _controls(bases, folder / "sound", bundle)
        for path in left.iterdir():
            shutil.rmtree(path)  # of opening that an alarm broke off
        said = {
            kind: json.loads((base / MANIFESTS[kind]).read_bytes())
            for kind, base in bases.items()
        }
        cases = [*file_cases(), *manifest_cases(said), *payload_cases(bases)]
        sound = {fingerprint(base) for base in bases.values()}
        if settings.sabotage:
            stack.enter_context(_sabotage())
        for number, case in enumerate(cases):
            # Two folders above, so that a case can put things aside out of the way.
            spoiled = folder / str(number) / "in" / case.kind
            copy_of(bases[case.kind], spoiled)
            try:
                case.change(spoiled)
            except PermissionError as error:
                tally.skipped.append(case.name)
                sys.stderr.write(f"bundles: skipped {case.name}: {error.strerror}\n")
                continue
            finger = fingerprint(spoiled)
            if finger in prints | sound:
                tally.examples.append(f"{case.name}: the same as another case")
            prints.add(finger)
            seen.add(case.seen_by)
            tally.judge(case, spoiled, bundle, left)
            shutil.rmtree(folder / str(number))
    seers = Counter(case.seen_by for case in cases)
    return Finding(
        {
            "cases": len(cases),
            "distinct_cases": len(prints),
            "seen_by_loader": seers["loader"],
            "seen_by_guard": seers["guard"],
            "seen_by_tensor_parser_only": seers["parser"],
            "overlays": sum(case.kind == "overlay" for case in cases),
            "skipped": len(tally.skipped),
            "sound_opened": n_sound,
            "sound_alarmed": n_alarms,
            "accepted": tally.accepted,
            "parsed_before_refusal": tally.parsed_before_refusal,
            "graphs_parsed": tally.graphs_parsed,
            "other_exceptions": tally.other_exceptions,
            "not_a_bundle_error": tally.not_a_bundle_error,
            "left_behind": tally.left_behind,
            "slowest_ms": round(tally.slowest_ms, 1),
        },
        {
            "distinct_cases": Bound(at_least=200),
            "seen_by_guard": Bound(at_least=1),
            "seen_by_tensor_parser_only": Bound(at_least=1),
            "overlays": Bound(at_least=100),
            "sound_opened": Bound(at_least=4),
            "sound_alarmed": Bound(at_least=4),
            "accepted": NONE,
            "parsed_before_refusal": NONE,
            "graphs_parsed": NONE,
            "other_exceptions": NONE,
            "not_a_bundle_error": NONE,
            "left_behind": NONE,
            "slowest_ms": Bound(at_most=SLOWEST_MS[settings.form]),
        },
        tally.examples,
    )


@contextmanager
def _sabotage() -> Iterator[None]:
    """A loader that does not look at what begins a file, nor into a graph."""
    with (
        mock.patch.object(sealed, "_check_format", return_value=None),
        mock.patch.object(engine, "check_file", return_value=None),
    ):
        yield


FAULT = Fault(
    "bundles", "malicious and mismatched bundles, galleries, overlays are opened", run
)
