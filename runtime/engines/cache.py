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
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, final

import msgspec
import numpy as np

from runtime.arrays import UInt8

MAGIC: Final = b"NEUROFLOW-ENGINE-1\n"
HEAD_BYTES: Final = 4096
"""Before the engine's bytes, which so begin at a page."""
SECRET: Final = "secret"  # noqa: S105  # a file's name
SECRET_BYTES: Final = 32
_CHUNK: Final = 4 * 1024**2
_PAGEOUT: Final = 21
"""MADV_PAGEOUT of Linux from 5.4 on, which `mmap` does not name before Python 3.13."""

Say = Callable[[str], None]
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

    def __init__(self, folder: Path, say: Say = lambda _line: None) -> None:
        """Open a cache; the folder is made when something is kept.

        Args:
            folder: Of this user alone.
            say: Called with a line about everything that is not as it should be.
        """
        self.folder = folder
        self.counts = CacheCounts()
        self._say = say

    def load(self, facts: EngineFacts) -> UInt8[np.ndarray, " bytes"] | None:
        """Return an engine's bytes, mapped; None where it must be built.

        The bytes may be written to without changing the file.
        """
        path = self._path(facts)
        if not path.exists():
            self._say_other(facts)
            return None
        try:
            self._private()
            secret = self._secret()
        except OSError as error:
            # Of the engines themselves that says nothing: they stay.
            self.counts.refused += 1
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
            self.refuse(facts, trouble)
            return None
        self.counts.loaded += 1
        return found

    def refuse(self, facts: EngineFacts, trouble: str) -> None:
        """Forget an engine that is not sound, or that its library does not take."""
        self.counts.refused += 1
        self._say(
            f"engine cache: {facts.backend} {facts.name}: expected an engine that this "
            f"user stored here, found {trouble}; building it anew"
        )
        with contextlib.suppress(OSError):
            self._path(facts).unlink(missing_ok=True)

    def store(self, facts: EngineFacts, engine: bytes) -> None:
        """Keep a built engine; where that fails, say so and go on without."""
        self._store(facts, lambda file: file.write(engine), f"{len(engine)} bytes")

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
        if not self._store(facts, write, "it"):
            return None
        try:
            return self._read(self._path(facts), facts, self._secret())[1]
        except OSError:
            return None

    def _store(self, facts: EngineFacts, write: Write, what: str) -> bool:
        self.counts.built += 1
        path = self._path(facts)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._private()
            secret = self._secret()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, flags, 0o600), "w+b") as file:
                file.write(bytes(HEAD_BYTES))
                write(file)
                size = file.seek(0, os.SEEK_END) - HEAD_BYTES
                code = _code(secret, facts, size, _chunks_of(file))
                file.seek(0)
                file.write(_start(_Head(facts=facts, size=size, code=code)))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.counts.unstored += 1
            self._say(
                f"engine cache: {facts.backend} {facts.name}: expected to store "
                f"{what} in {self.folder}, found {_reason(error)}; "
                "running without a cache, and building again at the next start"
            )
            return False
        return True

    def _path(self, facts: EngineFacts) -> Path:
        return self.folder / f"{facts.graph[:16]}-{facts.backend}-{facts.key()}.engine"

    def _private(self) -> None:
        """Make the folder, or refuse one that others can reach.

        Raises:
            OSError: It cannot be made, is no folder, or is open to others.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.lstat()
        mode = stat.S_IMODE(found.st_mode)
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if not is_own or mode & 0o077:
            raise OSError(
                0, f"a folder of mode {mode:04o} and user {found.st_uid} (chmod 700 it)"
            )

    def _secret(self) -> bytes:
        """Return this user's secret, made at the first use.

        Raises:
            OSError: It cannot be read or made, or others can read it.
        """
        path = self.folder / SECRET
        temporary = path.with_name(f".{SECRET}.{os.getpid()}")
        if not path.exists():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
            # Whoever comes first wins: a link fails where the name is taken.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(temporary)
            temporary.unlink()
        with _opened(path) as file:
            data = file.read(SECRET_BYTES + 1)
        if len(data) != SECRET_BYTES:
            raise OSError(0, f"a secret of {len(data)} bytes")
        return data

    def _read(
        self, path: Path, facts: EngineFacts, secret: bytes
    ) -> tuple[str, UInt8[np.ndarray, " bytes"] | None]:
        with _opened(path) as file:
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
        for path in sorted(self.folder.glob(pattern)):
            try:
                with _opened(path) as file:
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
    return (error.strerror or str(error)).lower()


def _opened(path: Path) -> BinaryIO:
    """Open a plain file of this user that nobody else can reach.

    Raises:
        OSError: It is something else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags), "rb")
    found = os.fstat(file.fileno())
    is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
    if not is_own or found.st_mode & 0o077:
        file.close()
        raise OSError(0, "a file that others can reach, or no plain one")
    return file


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


def page_out(engine: UInt8[np.ndarray, " bytes"]) -> None:
    """Let the system take back the memory that a mapped engine was read into.

    Whoever reads on in it gets the same bytes from the file, or his own where he wrote.
    Nothing happens where the system does not know how, or the array is no mapped one.
    """
    base: object = engine.base
    mapped = base.obj if isinstance(base, memoryview) else None
    if isinstance(mapped, mmap.mmap):
        with contextlib.suppress(OSError):
            mapped.madvise(_PAGEOUT)


def user_cache(environment: Mapping[str, str]) -> Path:
    """Return where this user's engines are kept, as the XDG base directories say."""
    base = environment.get("XDG_CACHE_HOME", "")
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "neuroflow" / "engines"
