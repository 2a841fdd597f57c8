"""A start whose engines were built anew is none from cache, and is not called one."""

from contextlib import contextmanager
from types import SimpleNamespace

import msgspec
import pytest

import verbs.bench
from runtime.bench.result import Who, decode_result, encode_result
from runtime.bench.table import report
from tests.bench_results import OURS, result
from tests.models import served_bundle
from tests.unit.test_bench_targets import in_bf16, rows
from verbs.bench import process_of
from verbs.bench_orders import Job, Reply

FULL = (
    "engine cache: openvino step: expected to store it in /x/engines-0, found no space "
    "left on device; running without a cache, and building again at the next start"
)
WHY = (
    "2 of 2 engines were built anew (engine cache: openvino step: expected to store it "
    "in its folder, found no space left on device)"
)


def starts(monkeypatch, *replies):
    left = iter(replies)

    @contextmanager
    def started(_job):
        yield SimpleNamespace(ready=next(left))

    monkeypatch.setattr(verbs.bench, "started", started)


def reply(loaded, built, said=""):
    return Reply(
        now_ns=10**18, engines_loaded=loaded, engines_built=built, cache_said=said
    )


JOB = Job(kind="serve", who=OURS, bundle="/x", engines="/x/engines-0")


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        ((reply(0, 2), reply(2, 0), reply(2, 0)), ""),
        # ONNX Runtime keeps no engines: what is kept of it is the copy of the bundle.
        ((reply(0, 0), reply(0, 0), reply(0, 0)), ""),
        ((reply(0, 2, FULL), reply(0, 2, FULL), reply(0, 2, FULL)), WHY),
        ((reply(0, 2), reply(2, 0), reply(1, 1)), "1 of 2 engines were built anew"),
    ],
)
def test_it_is_said_why_a_start_was_not_from_cache(monkeypatch, replies, why):
    starts(monkeypatch, *replies)

    found = process_of(JOB, cached=2)

    assert found.uncached == why
    assert len(found.cached_ns) == 2


def without_cache(one):
    processes = (msgspec.structs.replace(p, uncached=WHY) for p in one.processes)
    return msgspec.structs.replace(one, processes=tuple(processes))


def test_the_table_has_a_dash_and_the_reason():
    lines = report(without_cache(result())).splitlines()

    assert f"| {OURS} | 500 | 600 | 3.00 | - |" in lines
    assert f"{OURS}: no start from cache, because {WHY}." in lines
    assert "no start from cache" not in report(result())


def test_such_a_start_reaches_no_target():
    found = rows(without_cache(in_bf16()))

    assert found["cold start to the first answer, from cache, s"] == [
        "<= 5.00", "-", f"not run here, because no start was from cache: {WHY}",
    ]  # fmt: skip


def test_a_file_of_before_does_not_say_and_is_read():
    old = msgspec.json.decode(encode_result(result()))
    for process in old["processes"]:
        del process["uncached"]

    assert decode_result(msgspec.json.encode(old), "old.json") == result()


@pytest.mark.slow
def test_a_cache_that_keeps_nothing_is_noticed(tmp_path):
    copies, engines = tmp_path / "copies", tmp_path / "engines"
    copies.mkdir(mode=0o700)
    # Open to others, so that no engine is kept in it or loaded from it.
    engines.mkdir()
    engines.chmod(0o755)
    job = Job(
        kind="serve",
        who=Who(peer="openvino", precision="f32", threads=1),
        bundle=str(served_bundle()),
        cache=str(copies),
        engines=str(engines),
    )

    found = process_of(job, cached=1)
    engines.chmod(0o700)
    kept = process_of(job, cached=1)

    assert found.uncached.startswith("2 of 2 engines were built anew (engine cache: ")
    assert "0755" in found.uncached
    assert str(tmp_path) not in found.uncached
    assert kept.uncached == ""
