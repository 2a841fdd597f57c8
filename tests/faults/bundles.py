"""Malicious and mismatched bundles and galleries: refused, and where that is possible
before anything of theirs is parsed."""

import importlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from runtime import sealed
from runtime.bundle import open_bundle
from runtime.engine import open_engine
from runtime.errors import BundleError, NeuroFlowError
from runtime.gallery import open_gallery
from runtime.manifest import LatentSpec
from tests.faults.bundle_files import file_cases
from tests.faults.bundle_folder import (
    GRAPH,
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

PARSERS = (
    "onnxruntime.InferenceSession", "onnx.load", "onnx.load_model",
    "onnx.load_from_string", "onnx.load_model_from_string", "safetensors.safe_open",
    "safetensors.deserialize", "safetensors.numpy.load", "safetensors.numpy.load_file",
    "runtime.bundle.load_file",
)  # fmt: skip
"""Everything in the process that could read a payload."""

SLOWEST_MS = {"full": 5_000, "short": 60_000}
"""The short form shares its machine with other tests."""

LATENT = LatentSpec(tokens=3, width=4)


class ParserReachedError(BaseException):
    """A payload met a parser; no `except Exception` may hide that."""


@contextmanager
def parsers_alarmed() -> Iterator[int]:
    """Make every parser raise; give how many there are."""

    def alarm(*_args: object, **_options: object) -> None:
        raise ParserReachedError

    with ExitStack() as stack:
        for name in PARSERS:
            module, _, attribute = name.rpartition(".")
            target = importlib.import_module(module)
            stack.enter_context(mock.patch.object(target, attribute, alarm))
        yield len(PARSERS)


@dataclass
class Tally:
    """What became of the cases."""

    accepted: int = 0
    parsed_before_refusal: int = 0
    other_exceptions: int = 0
    not_a_bundle_error: int = 0
    """Refused by the loader with another typed error than its own."""
    left_behind: int = 0
    slowest_ms: float = 0.0
    skipped: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def judge(self, case: Case, folder: Path, left: Path) -> None:
        """Open a spoiled folder and say what is wrong with how it was refused."""
        begin = time.monotonic()
        try:
            with ExitStack() as stack:
                if case.seen_by == "loader":
                    stack.enter_context(parsers_alarmed())
                opened(case, folder)
        except BundleError:
            pass
        except NeuroFlowError as error:
            if case.seen_by == "loader":
                self.not_a_bundle_error += 1
                self._note(case, f"refused with {type(error).__name__}: {error}")
        except ParserReachedError:
            self.parsed_before_refusal += 1
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


def opened(case: Case, folder: Path) -> None:
    """Open a folder as a rig does, as far as the case's fault could be met."""
    if case.kind == "gallery":
        open_gallery(folder, LATENT)
        return
    with open_bundle(folder) as bundle:
        bundle.golden()
        if case.needs_engine:
            graph = bundle.manifest.graph("encoder")
            file = bundle.graph_file("encoder")
            open_engine("ort", file, graph, threads=1).close()


def _bases(folder: Path) -> dict[Kind, Path]:
    kinds: tuple[Kind, ...] = ("bundle", "gallery")
    for kind in kinds:
        write_base(kind, folder / kind)
    return {kind: folder / kind for kind in kinds}


def _controls(bases: dict[Kind, Path], folder: Path) -> int:
    """Count the sound folders that open; a loader that refuses all proves nothing."""

    def unspoiled(_: Path) -> None:
        return

    controls = [Case(kind, kind, unspoiled) for kind in bases]
    graph = relisted("bundle", GRAPH, sound_graph())
    controls.append(Case("graph", "bundle", graph, needs_engine=True))
    for case in controls:
        copy_of(bases[case.kind], folder / case.name)
        case.change(folder / case.name)
        opened(case, folder / case.name)
    return len(controls)


def run(settings: Settings) -> Finding:
    """Spoil a sound folder in every way, and open each."""
    tally, prints, seen = Tally(), set[str](), set[str]()
    with scratch() as folder, ExitStack() as stack:
        left = folder / "left"
        left.mkdir()
        stack.enter_context(mock.patch.object(tempfile, "tempdir", str(left)))
        bases = _bases(folder / "bases")
        n_sound = _controls(bases, folder / "sound")
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
            tally.judge(case, spoiled, left)
            shutil.rmtree(folder / str(number))
    n_parser = sum(case.seen_by == "parser" for case in cases)
    return Finding(
        {
            "cases": len(cases),
            "distinct_cases": len(prints),
            "seen_by_loader": len(cases) - n_parser,
            "seen_by_parser_only": n_parser,
            "skipped": len(tally.skipped),
            "sound_opened": n_sound,
            "accepted": tally.accepted,
            "parsed_before_refusal": tally.parsed_before_refusal,
            "other_exceptions": tally.other_exceptions,
            "not_a_bundle_error": tally.not_a_bundle_error,
            "left_behind": tally.left_behind,
            "slowest_ms": round(tally.slowest_ms, 1),
        },
        {
            "distinct_cases": Bound(at_least=200),
            "seen_by_parser_only": Bound(at_least=1),
            "sound_opened": Bound(at_least=3),
            "accepted": NONE,
            "parsed_before_refusal": NONE,
            "other_exceptions": NONE,
            "not_a_bundle_error": NONE,
            "left_behind": NONE,
            "slowest_ms": Bound(at_most=SLOWEST_MS[settings.form]),
        },
        tally.examples,
    )


def _sabotage() -> "mock._patch[object]":
    """A loader that looks at sizes and hashes, and not at what begins a file."""
    return mock.patch.object(sealed, "_check_format", return_value=None)


FAULT = Fault(
    "bundles", "malicious and mismatched bundles and galleries are opened", run
)
