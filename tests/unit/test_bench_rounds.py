"""Engines take turns, and every sample of every round is kept."""

import sys

import pytest

from runtime.bench.limits import Rate
from runtime.bench.result import Who
from runtime.errors import BackendError
from runtime.timing import Paced
from verbs.bench_orders import Child, Job, Order, Reply, environment
from verbs.bench_rounds import MOST_CALLS, Plan, Turns

OURS, THEIRS = (Who(peer=p, precision="f32", threads=1) for p in ("ort", "torch"))
PLAN = Plan(rounds=4, seconds=0.4, evaluations=(1, 5), period_s=0.5, volumes=3)
MS = 1_000_000


class Engine:
    """Answers at once that a call took 10 ms, or a flow 2 ms an evaluation."""

    def __init__(self, who, stages, log):
        self.who, self.log, self.ready = who, log, Reply(stages=stages)

    def ask(self, order: Order) -> Reply:
        self.log.append((self.who.peer, order))
        if order.period_ns is not None:
            found = Paced(latency_ns=(5,) * order.count, service_ns=(), misses=1)
            return Reply(paced=found)
        taken = 2 * MS * order.evaluations if order.stage == "flow" else 10 * MS
        return Reply(samples_ns=(taken,) * order.count, cpu_ns=7)


class Limit:
    def __init__(self, log):
        self.log = log

    def ask(self, order: Order) -> Reply:
        self.log.append(("limit", order))
        rate = Rate(per_s=1.0, by="numpy")
        return Reply(flop=rate, memory=rate)


def turns(plan=PLAN):
    log = []
    stages = ("front", "encoder", "decode")
    engines = {who: Engine(who, stages, log) for who in (OURS, THEIRS)}
    return Turns(plan, lambda _: None, engines=engines, limits={1: Limit(log)}), log


def test_all_rounds_are_kept_and_others_do_the_models_stages_only():
    taken = turns()[0].take(first=[OURS])

    found = {(s.stage, s.who): s for s in taken.series()}
    assert set(found) == {
        ("front", OURS),
        ("encoder", OURS),
        ("decode", OURS),
        ("encoder", THEIRS),
    }
    # 0.4 s over 4 rounds are ten calls of 10 ms each.
    assert found["encoder", THEIRS].rounds_ns == ((10 * MS,) * 10,) * 4
    assert found["encoder", THEIRS].cpu_ns == (7,) * 4
    assert [s.rounds_ns for s in taken.steps((1, 5))] == [((2 * MS, 10 * MS),) * 4] * 2
    assert len(taken.limits[1]) == 4


def test_whoever_comes_first_changes_from_round_to_round():
    rounds, log = turns()
    rounds.take(first=[OURS])

    found = [
        (peer, order.stage)
        for peer, order in log
        if peer == "limit"
        or (order.stage == "encoder" and order.count == 10)
        or (order.stage == "flow" and order.evaluations == 5 and order.count > 1)
    ]
    limit, ort, torch = ("limit", ""), ("ort", "flow"), ("torch", "flow")
    stages = [("ort", "encoder"), ("torch", "encoder")]
    # Beside each other within a round: what is compared meets the same machine.
    assert [found[i : i + 5] for i in range(0, 20, 5)] == [
        [*stages, limit, ort, torch],
        [*stages[::-1], ort, torch, limit],
        [*stages, torch, limit, ort],
        [*stages[::-1], limit, ort, torch],
    ]


def test_a_fast_stage_is_not_called_for_ever():
    rounds, log = turns(Plan(rounds=1, seconds=3000, evaluations=(1, 2), period_s=1,
                             volumes=0))  # fmt: skip
    rounds.take(first=[OURS])

    assert max(order.count for _, order in log) == MOST_CALLS


def test_a_paced_run_keeps_latencies_and_misses():
    (found,) = turns()[0].pace([OURS])

    assert (found.period_ns, found.paced.misses) == (500 * MS, 1)
    assert len(found.paced.latency_ns) == 3


def test_a_process_has_the_threads_that_were_asked_for():
    found = environment(3, {"HOME": "x", "OMP_NUM_THREADS": "64"})

    assert found["HOME"] == "x"
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == "3"


def test_a_process_that_cannot_do_its_job_says_why_in_one_line(tmp_path):
    job = Job(kind="stages", who=OURS, bundle=str(tmp_path / "none"))

    with pytest.raises(BackendError) as caught:
        Child(job)

    assert str(caught.value).startswith(f"{tmp_path}/none")
    assert "\n" not in str(caught.value)


def test_a_process_that_dies_is_one_line_with_its_last_words(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first >&2\necho out of memory >&2\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    with pytest.raises(BackendError) as caught:
        Child(Job(kind="stages", who=OURS, bundle="x"))

    assert str(caught.value) == (
        "ort f32, 1 thread: expected an answer, found its process dead: out of memory"
    )
