"""Compiled engines kept between starts: rebuildable, private, never believed blindly.

An engine that is loaded is code that runs. One is therefore loaded only from a folder
of this user alone, only under the key of exactly this graph, library, device and
settings, and only with a code of authenticity that this user's own secret gives it: a
file that somebody else put there, or that a disk damaged, is built anew. Nothing here
can fail a start: without a cache an engine is built, which is said and counted.
"""

import contextlib
import hashlib
import hmac
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, final

import msgspec
import numpy as np

from runtime.arrays import UInt8
from runtime.engines.cache_folder import PrivateFolder, Say, opened
from runtime.given import folder_from

MAGIC: Final = b"NEUROFLOW-ENGINE-1\n"
HEAD_BYTES: Final = 4096
"""Before the engine's bytes, which so begin at a page."""
_CHUNK: Final = 4 * 1024**2

Write = Callable[[BinaryIO], object]


class EngineFacts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What an engine was made of and for; whoever differs in one needs another."""

    graph: str
    """Hash over the graph and its weights."""
    name: str
    """Name of the graph; only for people."""
    backend: str
    precision: str
    version: str
    """Of the library that built it."""
    device: str
    """Identity of the processor or GPU."""
    settings: tuple[tuple[str, str], ...] = ()
    """What the builder was told besides."""

    def key(self) -> str:
        """Return the name under which the engine is kept."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class KeptEngine:
    """A cache, and what of an engine's facts the bundle knows."""

    cache: "EngineCache"
    graph: str
    name: str
    precision: str

    def facts(
        self,
        backend: str,
        version: str,
        device: str,
        settings: tuple[tuple[str, str], ...],
    ) -> EngineFacts:
        """Return all facts, with those that only the backend knows."""
        return EngineFacts(
            graph=self.graph,
            name=self.name,
            backend=backend,
            precision=self.precision,
            version=version,
            device=device,
            settings=settings,
        )


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    facts: EngineFacts
    size: int
    code: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """HMAC-SHA256 over the facts, the size and the engine's bytes."""


class CacheCounts(msgspec.Struct, kw_only=True):
    """What became of the engines that were asked for."""

    loaded: int = 0
    built: int = 0
    refused: int = 0
    """Of those built: a file was there and could not be trusted or used."""
    unstored: int = 0
    """Of those built: there was no room, or no safe folder, to keep them."""

    def line(self) -> str:
        """Say it in one line; empty where no engine was asked for."""
        if not self.loaded + self.built:
            return ""
        causes = {"not believed": self.refused, "not kept": self.unstored}
        of_those = ", ".join(f"{n} {why}" for why, n in causes.items() if n)
        end = f" ({of_those})" if of_those else ""
        return f"{self.loaded} engines from the cache, {self.built} built{end}"


@final
class EngineCache:
    """A folder of engines."""

    def __init__(self, folder: str | Path, say: Say = lambda _line: None) -> None:
        """Open a cache; the folder is made when something is kept.

        Args:
            folder: Of this user alone.
            say: Called with a line about everything that is not as it should be.

        Raises:
            UsageError: The folder is named by no path.
        """
        self.folder = folder_from("engine cache", folder)
        self.counts = CacheCounts()
        self._say, self._private = say, PrivateFolder(self.folder, say)

    def load(
        self, facts: EngineFacts, *, is_engine: bool = True
    ) -> UInt8[np.ndarray, " bytes"] | None:
        """Return an engine's bytes, mapped; None where it must be built.

        The bytes may be written to without changing the file.

        Args:
            facts: What it was made of and for.
            is_engine: False of what only helps to build or start one, such as times
                that were measured: it is kept as engines are, and not counted.
        """
        path, counts = self._path(facts), self._counts(is_engine=is_engine)
        try:
            path.lstat()
        except OSError:
            # Why nothing could be there, if not for its absence, `store` will say.
            self._say_other(facts)
            return None
        try:
            self._private.check()
            secret = self._private.secret()
        except OSError as error:
            # Of the engines themselves that says nothing: they stay.
            counts.refused += 1
            self._say(
                f"engine cache: {facts.backend} {facts.name}: expected "
                f"{self.folder} and its secret to be this user's alone, found "
                f"{_reason(error)}; building anew, and leaving what is there"
            )
            return None
        try:
            trouble, found = self._read(path, facts, secret)
        except OSError as error:
            trouble, found = _reason(error), None
        if found is None:
            self.refuse(facts, trouble, is_engine=is_engine)
            return None
        counts.loaded += 1
        return found

    def _counts(self, *, is_engine: bool) -> CacheCounts:
        return self.counts if is_engine else CacheCounts()

    def refuse(
        self, facts: EngineFacts, trouble: str, *, is_engine: bool = True
    ) -> None:
        """Forget an engine that is not sound, or that its library does not take."""
        self._counts(is_engine=is_engine).refused += 1
        self._say(
            f"engine cache: {facts.backend} {facts.name}: expected an engine that this "
            f"user stored here, found {trouble}; building it anew"
        )
        with contextlib.suppress(OSError):
            self._path(facts).unlink(missing_ok=True)

    def store(
        self, facts: EngineFacts, engine: bytes, *, is_engine: bool = True
    ) -> None:
        """Keep a built engine; where that fails, say so and go on without.

        Args:
            facts: What it was made of and for.
            engine: Its bytes.
            is_engine: As `load` has it.
        """
        counts = self._counts(is_engine=is_engine)
        what = f"{len(engine)} bytes"
        self._store(facts, lambda file: file.write(engine), what, counts)

    def store_written(
        self, facts: EngineFacts, write: Write
    ) -> UInt8[np.ndarray, " bytes"] | None:
        """Keep a built engine that its library writes, so that no copy is in memory.

        Args:
            facts: What it was made of and for.
            write: Writes the engine's bytes to a file, from where that stands on.

        Returns:
            Its bytes as they were kept, mapped as `load` maps them; None where keeping
            them failed, which was said.
        """
        if not self._store(facts, write, "it", self.counts):
            return None
        try:
            return self._read(self._path(facts), facts, self._private.secret())[1]
        except OSError:
            return None

    def _store(
        self, facts: EngineFacts, write: Write, what: str, counts: CacheCounts
    ) -> bool:
        counts.built += 1
        try:
            self._private.check()
            secret = self._private.secret()
            with self._private.replacing(self._path(facts).name) as file:
                file.write(bytes(HEAD_BYTES))
                write(file)
                size = file.seek(0, os.SEEK_END) - HEAD_BYTES
                code = _code(secret, facts, size, _chunks_of(file))
                file.seek(0)
                file.write(_start(_Head(facts=facts, size=size, code=code)))
        except OSError as error:
            counts.unstored += 1
            self._say(
                f"engine cache: {facts.backend} {facts.name}: expected to store "
                f"{what} in {self.folder}, found {_reason(error)}; "
                "running without a cache, and building again at the next start"
            )
            return False
        return True

    def _path(self, facts: EngineFacts) -> Path:
        return self.folder / f"{facts.graph[:16]}-{facts.backend}-{facts.key()}.engine"

    def _read(
        self, path: Path, facts: EngineFacts, secret: bytes
    ) -> tuple[str, UInt8[np.ndarray, " bytes"] | None]:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = _head(file.read(HEAD_BYTES))
            if head is None or size != HEAD_BYTES + head.size or not head.size:
                return f"a damaged file of {size} bytes", None
            if head.facts != facts:
                return "an engine of other facts", None
            # Copied when written to: the library wants memory that it could change.
            data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        engine = memoryview(data)[HEAD_BYTES:]
        code = _code(secret, facts, len(engine), _chunks_in(engine))
        if not hmac.compare_digest(code, head.code):
            return "changed bytes", None
        return "", np.frombuffer(engine, np.uint8)

    def _say_other(self, facts: EngineFacts) -> None:
        """Say what an engine of the same graph and library was built for instead."""
        pattern = f"{facts.graph[:16]}-{facts.backend}-*.engine"
        try:
            paths = sorted(self.folder.glob(pattern))
        except OSError:
            return
        for path in paths:
            try:
                with opened(path) as file:
                    head = _head(file.read(HEAD_BYTES))
            except OSError:
                continue
            if head is None or head.facts.precision != facts.precision:
                continue
            for what in ("version", "device", "settings"):
                wanted, found = getattr(facts, what), getattr(head.facts, what)
                if head.facts.name == facts.name and wanted != found:
                    self._say(
                        f"engine cache: {facts.backend} {facts.name}: expected "
                        f"{what} {_shown(wanted)}, found an engine for "
                        f"{_shown(found)}; building anew"
                    )
                    return


def _shown(fact: str | tuple[tuple[str, str], ...]) -> str:
    if isinstance(fact, str):
        return fact
    return " ".join(f"{name}={value}" for name, value in fact) or "none"


def _reason(error: OSError) -> str:
    said = error.strerror or str(error)
    # The system's words begin a sentence; ours are in the middle of one already.
    return said.lower() if error.errno else said


def _start(head: _Head) -> bytes:
    start = MAGIC + msgspec.json.encode(head)
    if len(start) > HEAD_BYTES:
        raise OSError(0, f"a description of {len(start)} bytes")
    return start.ljust(HEAD_BYTES, b"\0")


def _head(data: bytes) -> _Head | None:
    body = data.removeprefix(MAGIC)
    if len(data) != HEAD_BYTES or body == data:
        return None
    try:
        return msgspec.json.decode(body.rstrip(b"\0"), type=_Head)
    except (msgspec.DecodeError, ValueError):
        return None


def _code(
    secret: bytes, facts: EngineFacts, size: int, engine: Iterable[bytes | memoryview]
) -> str:
    code = hmac.new(secret, digestmod=hashlib.sha256)
    described = msgspec.json.encode(facts)
    code.update(len(described).to_bytes(8, "little") + described)
    code.update(size.to_bytes(8, "little"))
    for chunk in engine:
        code.update(chunk)
    return code.hexdigest()


def _chunks_in(engine: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(engine), _CHUNK):
        yield engine[at : at + _CHUNK]


def _chunks_of(file: BinaryIO) -> Iterator[bytes]:
    file.seek(HEAD_BYTES)
    while chunk := file.read(_CHUNK):
        yield chunk


def let_go(engine: object) -> None:
    """Give back this process's share of the memory that a mapped engine was read into.

    Whoever reads on in it gets the file's bytes, so that what was written there is
    lost: a library that writes into what it loads is not for this. The system keeps the
    pages as long as it has room, and the next start need not read them from the disk.
    Nothing happens where the system does not know how, or the array is no mapped one.
    """
    base = getattr(engine, "base", None)
    mapped = base.obj if isinstance(base, memoryview) else None
    if isinstance(mapped, mmap.mmap):
        with contextlib.suppress(OSError, AttributeError):
            mapped.madvise(mmap.MADV_DONTNEED)


def user_cache(environment: Mapping[str, str]) -> Path:
    """Return where this user's engines are kept, as the XDG base directories say."""
    base = Path(environment.get("XDG_CACHE_HOME", ""))
    root = base if base.is_absolute() else _home() / ".cache"
    return root / "neuroflow" / "engines"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        # A user without a name, as containers have them: where nothing can be kept,
        # that is said when something is.
        return Path("/")
