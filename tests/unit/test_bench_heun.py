"""Lengths of a flow are counted in evaluations that are made, whatever the solver."""

import numpy as np
import pytest

from runtime.bench.result import Who, decode_result
from runtime.bundle import open_bundle
from runtime.engines.ort import OrtEngine
from runtime.errors import UsageError
from runtime.manifest import FlowSpec
from runtime.solver import time_grid
from tests.models import SYNTHETIC, export, random_model
from verbs.bench_commands import bench
from verbs.bench_engines import open_stages, with_evaluations
from verbs.bench_options import lengths_of
from verbs.bench_orders import Job


def flow(solver, evaluations):
    return FlowSpec(
        path="cos",
        is_centred=True,
        solver=solver,
        decode_times=time_grid(2, "decode"),
        encode_times=time_grid(2, "encode"),
        decode_evaluations=evaluations,
        encode_evaluations=evaluations,
    )


@pytest.mark.parametrize(
    ("solver", "lengths"),
    [("rotation", (1, 5, 10, 20)), ("euler", (1, 5, 10, 20)), ("heun", (2, 6, 10, 20))],
)
def test_the_usual_lengths_are_whole_numbers_of_steps(solver, lengths):
    assert lengths_of(flow(solver, 4), ()) == lengths


def test_lengths_that_are_no_whole_number_of_steps_are_refused():
    assert lengths_of(flow("heun", 4), (2, 4)) == (2, 4)
    assert lengths_of(flow("euler", 2), (1, 3)) == (1, 3)
    with pytest.raises(UsageError) as caught:
        lengths_of(flow("heun", 4), (1, 2, 5))

    assert str(caught.value) == (
        "evaluations: expected multiples of 2, which a step of heun makes, found 1 5. "
        "Leave them out."
    )


@pytest.fixture(scope="module")
def heun(tmp_path_factory):
    out = tmp_path_factory.mktemp("heun")
    return export(random_model(), out / "bundle", backbone=SYNTHETIC, solver="heun")


@pytest.mark.slow
def test_a_flow_of_n_evaluations_makes_n_of_them(heun, monkeypatch):
    called = []
    run = OrtEngine.run
    monkeypatch.setattr(
        OrtEngine, "run", lambda e, x: called.append(set(x)) or run(e, x)
    )
    who = Who(peer="ort", precision="f32", threads=1)
    with open_bundle(heun) as bundle:
        stages = open_stages(bundle, Job(kind="stages", who=who, bundle="", gallery=3))
        for n in (2, 6, 20):
            called.clear()
            stages.flow(n)()
            assert called == [{"z", "modulation", "weights"}] * n
        for n in (1, 5):
            with pytest.raises(UsageError, match="expected a multiple of 2"):
                stages.flow(n)
            with pytest.raises(UsageError, match=f"heun makes, found {n}$"):
                with_evaluations(bundle.manifest, n)
        stages.close()


@pytest.mark.slow
def test_a_heun_bundle_is_measured_at_the_defaults(heun, tmp_path, capsys):
    file = tmp_path / "a.json"

    bench(heun, backend="ort", threads=(1,), rounds=6, seconds=0.02, tr=0.02, json=file)

    found = decode_result(file.read_bytes(), "a.json")
    assert (found.solver, found.decode_evaluations) == ("heun", 4)
    assert found.steps[0].evaluations == (2, 6, 10, 20)
    assert "| 2 6 10 20 |" in capsys.readouterr().out
    assert np.shape(found.steps[0].rounds_ns) == (6, 4)
    assert found.bundle_sha256 is not None


@pytest.mark.slow
def test_an_odd_length_of_a_heun_bundle_is_one_line_before_any_work(heun, capsys):
    with pytest.raises(UsageError, match=r"^evaluations: .* found 1 5\. "):
        bench(heun, backend="ort", threads=(1,), evaluations=(1, 5))

    assert "round" not in capsys.readouterr().err
