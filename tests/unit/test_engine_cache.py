"""A kept engine is loaded only as it was stored, by whom and for what it was."""

import errno
import os
import resource
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.bundle import open_bundle
from runtime.engines.cache import (
    HEAD_BYTES,
    CacheCounts,
    EngineCache,
    EngineFacts,
    let_go,
    user_cache,
)
from runtime.engines.cache_folder import SECRET, PrivateFolder
from runtime.engines.device import cpu_here, cpu_identity
from runtime.engines.openvino import check_precision, hint
from runtime.errors import BackendError
from runtime.model import open_model
from tests.models import tiny_bundle

FACTS = EngineFacts(
    graph="a" * 64,
    name="step",
    backend="openvino",
    precision="f32",
    version="1.0",
    device="x86_64 One",
    settings=(("THREADS", "1"),),
)
ENGINE = bytes(range(256)) * 40


@pytest.fixture
def said():
    return []


@pytest.fixture
def cache(tmp_path, said):
    return EngineCache(tmp_path / "engines", said.append)


def stored_file(cache: EngineCache) -> Path:
    (path,) = cache.folder.glob("*.engine")
    return path


def test_what_was_stored_is_loaded_by_the_next_start(cache, tmp_path, said):
    assert cache.load(FACTS) is None
    cache.store(FACTS, ENGINE)
    second = EngineCache(tmp_path / "engines", said.append)

    found = second.load(FACTS)

    assert found.tobytes() == ENGINE
    assert said == []
    assert (second.counts.loaded, second.counts.built) == (1, 0)
    assert (cache.counts.loaded, cache.counts.built) == (0, 1)


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({}, ""),
        ({"loaded": 2}, "2 engines from the cache, 0 built"),
        (
            {"loaded": 1, "built": 2, "refused": 1, "unstored": 2},
            "1 engines from the cache, 2 built (1 not believed, 2 not kept)",
        ),
    ],
)
def test_what_became_of_the_engines_is_one_line(counts, line):
    assert CacheCounts(**counts).line() == line


def test_a_library_that_writes_to_its_engine_does_not_change_the_file(cache):
    cache.store(FACTS, ENGINE)

    cache.load(FACTS)[:] = 0

    assert cache.load(FACTS).tobytes() == ENGINE


def written(file):
    file.write(b"?" * 100 + ENGINE[100:])
    file.seek(HEAD_BYTES)
    file.write(ENGINE[:100])


def test_an_engine_that_its_library_writes_is_the_same_file(cache, tmp_path):
    cache.store(FACTS, ENGINE)
    wanted = stored_file(cache).read_bytes()

    found = cache.store_written(FACTS, written)

    assert stored_file(cache).read_bytes() == wanted
    assert found.tobytes() == ENGINE
    assert (cache.counts.loaded, cache.counts.built) == (0, 2)


def resident_kb(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(kind))
    return int(found)


def test_a_mapped_engine_gives_its_memory_back_and_has_the_files_bytes(cache):
    engine = ENGINE * 1600
    cache.store(FACTS, engine)
    before = resident_kb("RssFile")
    found = cache.load(FACTS)
    found[:3] = 7
    loaded = resident_kb("RssFile") - before
    if loaded < 14_000:
        pytest.skip("not run: this folder's files are in memory anyway")

    let_go(found)

    assert resident_kb("RssFile") - before < 2_000
    assert found.tobytes() == engine
    # Neither a mapping of others nor plain memory is touched.
    let_go(plain := np.full(3, 7, np.uint8))
    assert plain.tobytes() == b"\x07" * 3


def test_folder_and_files_are_this_users_alone(cache):
    cache.store(FACTS, ENGINE)

    assert cache.folder.stat().st_mode & 0o777 == 0o700
    for path in cache.folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in cache.folder.iterdir()} == {
        SECRET,
        stored_file(cache).name,
    }


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        (
            "version",
            "2.0",
            "engine cache: openvino step: expected version 2.0, found an engine for "
            "1.0; building anew",
        ),
        (
            "device",
            "x86_64 Two",
            "engine cache: openvino step: expected device x86_64 Two, found an engine "
            "for x86_64 One; building anew",
        ),
        (
            "settings",
            (("HINT", "LATENCY"), ("THREADS", "2")),
            "engine cache: openvino step: expected settings HINT=LATENCY THREADS=2, "
            "found an engine for THREADS=1; building anew",
        ),
        (
            "settings",
            (),
            "engine cache: openvino step: expected settings none, found an engine for "
            "THREADS=1; building anew",
        ),
    ],
)
def test_an_engine_for_something_else_is_not_loaded_and_said(
    cache, said, field, value, line
):
    cache.store(FACTS, ENGINE)

    assert cache.load(msgspec.structs.replace(FACTS, **{field: value})) is None
    assert said == [line]


@given(st.sampled_from(EngineFacts.__struct_fields__), st.text(min_size=1))
def test_facts_that_differ_have_keys_that_differ(field, value):
    new = ((value, value),) if field == "settings" else value
    other = msgspec.structs.replace(FACTS, **{field: new})

    assert (other.key() == FACTS.key()) == (other == FACTS)


@given(st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_file_with_any_byte_changed_is_built_anew(cache, said, data):
    cache.store(FACTS, ENGINE)
    path = stored_file(cache)
    content = bytearray(path.read_bytes())
    head = content.rstrip(b"\0").index(b"}\0") + 1
    at = data.draw(
        st.one_of(st.integers(0, head - 1), st.integers(HEAD_BYTES, len(content) - 1))
    )
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    said.clear()

    assert cache.load(FACTS) is None
    assert len(said) == 1
    assert said[0].startswith("engine cache: openvino step: expected an engine that")
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 10, HEAD_BYTES, HEAD_BYTES + 100])
def test_a_file_cut_short_is_built_anew(cache, said, size):
    cache.store(FACTS, ENGINE)
    path = stored_file(cache)
    path.write_bytes(path.read_bytes()[:size])

    assert cache.load(FACTS) is None
    assert said == [
        "engine cache: openvino step: expected an engine that this user stored here, "
        f"found a damaged file of {size} bytes; building it anew"
    ]
    assert cache.counts.refused == 1


def test_a_file_that_another_user_made_is_not_trusted(cache, said, tmp_path):
    """Sound in itself, and under the right name; but its code is of another secret."""
    other = EngineCache(tmp_path / "other")
    other.store(FACTS, ENGINE)
    cache.store(msgspec.structs.replace(FACTS, name="else"), ENGINE)
    planted = cache.folder / stored_file(other).name
    planted.write_bytes(stored_file(other).read_bytes())
    planted.chmod(0o600)

    assert cache.load(FACTS) is None
    assert said == [
        "engine cache: openvino step: expected an engine that this user stored here, "
        "found changed bytes; building it anew"
    ]


def test_an_engine_under_anothers_name_is_not_loaded(cache, said):
    """Only the key stands between two graphs of the same code of authenticity."""
    cache.store(FACTS, ENGINE)
    other = msgspec.structs.replace(FACTS, graph="a" * 16 + "b" * 48)
    stored_file(cache).rename(
        cache.folder / f"{other.graph[:16]}-openvino-{other.key()}.engine"
    )

    assert cache.load(other) is None
    assert said[0].endswith("found an engine of other facts; building it anew")


@pytest.mark.parametrize("what", ["file", "secret", "link", "folder"])
def test_what_others_can_reach_is_not_trusted(cache, said, what, tmp_path):
    cache.store(FACTS, ENGINE)
    path = stored_file(cache)
    if what == "file":
        path.chmod(0o644)
    elif what == "secret":
        (cache.folder / SECRET).chmod(0o644)
    elif what == "folder":
        cache.folder.chmod(0o755)
    else:
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")

    assert cache.load(FACTS) is None
    assert len(said) == 1


@pytest.mark.parametrize("what", [".", SECRET])
def test_what_is_only_not_private_enough_is_not_loaded_and_stays(cache, said, what):
    cache.store(FACTS, ENGINE)
    open_to_others = cache.folder / what
    mode = open_to_others.stat().st_mode & 0o777
    open_to_others.chmod(mode | 0o055)

    assert cache.load(FACTS) is None
    assert said[0].startswith(
        f"engine cache: openvino step: expected {cache.folder} and its secret to be "
        "this user's alone, found "
    )
    assert said[0].endswith("; building anew, and leaving what is there")
    open_to_others.chmod(mode)
    assert cache.load(FACTS) is not None
    assert (cache.counts.refused, cache.counts.loaded) == (1, 1)


def test_an_open_folder_gets_no_engine_and_that_is_said(cache, said):
    cache.folder.mkdir(mode=0o777)
    cache.folder.chmod(0o777)

    cache.store(FACTS, ENGINE)

    assert said == [
        f"engine cache: openvino step: expected to store 10240 bytes in {cache.folder},"
        f" found a folder of mode 0777 and user {os.getuid()} (chmod 700 it); running "
        "without a cache, and building again at the next start"
    ]
    assert list(cache.folder.iterdir()) == []
    assert cache.counts.unstored == 1


def test_a_full_disk_is_said_and_leaves_nothing_half_written(cache, said):
    cache.store(FACTS, ENGINE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    other = msgspec.structs.replace(FACTS, version="2.0")
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        cache.store(other, ENGINE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert len(said) == 1
    assert "found file too large; running without a cache" in said[0]
    assert {path.name for path in cache.folder.iterdir()} == {
        SECRET,
        stored_file(cache).name,
    }
    assert cache.load(FACTS).tobytes() == ENGINE


def test_a_full_disk_is_said_of_an_engine_that_its_library_writes(cache, said):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        found = cache.store_written(FACTS, written)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert found is None
    assert said == [
        f"engine cache: openvino step: expected to store it in {cache.folder}, found "
        "file too large; running without a cache, and building again at the next start"
    ]
    assert [path.name for path in cache.folder.iterdir()] == [SECRET]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("store", "what"),
    [
        (lambda cache: cache.store(FACTS, ENGINE), "10240 bytes"),
        (lambda cache: cache.store_written(FACTS, written), "it"),
    ],
    ids=["bytes", "written"],
)
def test_a_disk_that_is_full_only_when_it_is_synced_is_said(
    cache, said, monkeypatch, store, what
):
    """Room is given out late: the last write succeeds, and the sync does not."""
    folder = PrivateFolder(cache.folder, said.append)
    folder.check()
    folder.secret()
    monkeypatch.setattr(os, "fsync", full)

    assert store(cache) is None

    assert said == [
        f"engine cache: openvino step: expected to store {what} in {cache.folder}, "
        "found no space left on device; running without a cache, and building again at "
        "the next start"
    ]
    assert [path.name for path in cache.folder.iterdir()] == [SECRET]
    assert (cache.counts.built, cache.counts.unstored) == (1, 1)


def test_a_library_that_meets_a_full_disk_while_it_writes_is_said(cache, said):
    assert cache.store_written(FACTS, full) is None

    assert said == [
        f"engine cache: openvino step: expected to store it in {cache.folder}, "
        "found no space left on device; running without a cache, and building again at "
        "the next start"
    ]
    assert [path.name for path in cache.folder.iterdir()] == [SECRET]


def test_a_folder_that_cannot_be_made_is_said(tmp_path, said):
    (tmp_path / "file").write_bytes(b"")
    cache = EngineCache(tmp_path / "file" / "engines", said.append)

    assert cache.load(FACTS) is None
    cache.store(FACTS, ENGINE)

    assert "found not a directory; running without a cache" in said[0]


def test_the_cache_of_a_user_is_where_xdg_puts_it(tmp_path):
    assert user_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/neuroflow/engines")
    home = Path.home() / ".cache/neuroflow/engines"
    assert user_cache({}) == user_cache({"XDG_CACHE_HOME": "relative"}) == home


def test_processors_that_differ_in_one_instruction_are_two_devices():
    facts = "model name\t: One\nflags\t\t: avx2 fma\n\nmodel name\t: One\n"

    assert cpu_identity(facts, "x86_64") != cpu_identity(
        facts.replace("fma", "fma amx_bf16"), "x86_64"
    )
    assert cpu_identity(facts, "x86_64") == cpu_identity(
        facts + "cpu MHz\t: 1", "x86_64"
    )
    assert cpu_identity("", "aarch64").startswith("aarch64 unknown ")
    assert "\n" not in cpu_here()


def test_bfloat16_is_refused_where_the_processor_has_none():
    check_precision("bf16", ("FP32", "BF16"))
    check_precision("f32", ("FP32",))

    with pytest.raises(BackendError) as caught:
        check_precision("bf16", ("FP32", "INT8"))

    assert str(caught.value) == (
        "openvino: expected a CPU that computes in bf16 (AMX, or AVX-512 with bf16), "
        "found one with FP32, INT8. Choose precision f32."
    )


def test_a_precision_that_openvino_has_not_is_refused():
    with pytest.raises(BackendError) as caught:
        check_precision("f16", ("FP32", "FP16"))

    assert str(caught.value) == (
        "openvino: expected precision f32, bf16 or int8 on the CPU, found f16. Choose "
        "one of these, or another backend."
    )


@pytest.mark.parametrize(
    ("precision", "capabilities", "told"),
    [
        ("f32", ("FP32", "BF16"), "f32"),
        ("bf16", ("FP32", "BF16"), "bf16"),
        ("int8", ("FP32", "INT8"), "f32"),
        ("int8", ("FP32", "INT8", "BF16"), "bf16"),
    ],
)
def test_what_is_not_in_8_bits_is_in_bfloat16_where_the_processor_has_it(
    precision, capabilities, told
):
    assert hint(precision, capabilities) == told


@pytest.mark.slow
def test_openvino_loads_its_engines_from_the_cache_and_computes_the_same(cache, said):
    with open_bundle(tiny_bundle()) as bundle:
        z = bundle.golden()["z_n"][0].astype(np.float32)
        with open_model(bundle, "openvino", threads=1, cache=cache) as built:
            wanted = built.decode_latent(z)
        assert (cache.counts.built, cache.counts.loaded) == (4, 0)
        with open_model(bundle, "openvino", threads=1) as kept_nowhere:
            np.testing.assert_array_equal(kept_nowhere.decode_latent(z), wanted)

        with open_model(bundle, "openvino", threads=1, cache=cache) as loaded:
            np.testing.assert_array_equal(loaded.decode_latent(z), wanted)
        assert (cache.counts.built, cache.counts.loaded) == (4, 4)

        # The right code of authenticity over what the library itself will not take.
        for path in sorted(cache.folder.glob("*.engine")):
            facts = msgspec.json.decode(path.read_bytes()[19:HEAD_BYTES].rstrip(b"\0"))[
                "facts"
            ]
            cache.store(msgspec.convert(facts, EngineFacts), b"no engine at all")
        cache.counts.built = 0
        with open_model(bundle, "openvino", threads=1, cache=cache) as rebuilt:
            np.testing.assert_array_equal(rebuilt.decode_latent(z), wanted)
        assert (cache.counts.built, cache.counts.refused) == (4, 4)
        assert all("found one refused: " in line for line in said)


@pytest.mark.slow
def test_openvino_serves_what_it_built_where_no_disk_takes_it(cache, said):
    with open_bundle(tiny_bundle()) as bundle:
        z = bundle.golden()["z_n"][0].astype(np.float32)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            model = open_model(bundle, "openvino", threads=1, cache=cache)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with model, open_model(bundle, "openvino", threads=1) as other:
            found = [one.decode_latent(z) for one in (model, other)]

    np.testing.assert_array_equal(*found)
    assert cache.counts.unstored == 4
    assert len(said) == 4
    assert all("found file too large; running without a cache" in s for s in said)
