"""The engine that a rig takes is measured, and has others behind it."""

import dataclasses
import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import runtime.model as model_module
from runtime.auto import candidates_of, choose_engine
from runtime.bundle import open_bundle
from runtime.engine import open_engine
from runtime.engines.choice import MARGIN, Candidate, Measured, choose
from runtime.engines.openvino import OpenVinoEngine
from runtime.engines.ort import OrtEngine
from runtime.engines.standby import StandbyEngine
from runtime.errors import (
    BackendError,
    BundleError,
    ParityError,
    TensorMismatchError,
)
from runtime.golden import LIMITS, judge
from runtime.graphs import graph_of, told_precision
from runtime.manifest import EIGHT_BITS
from runtime.model import open_model
from tests.models import tiny_bundle

ORT = Candidate("ort", "f32")
OPENVINO = Candidate("openvino", "f32")
BF16 = Candidate("openvino", "bf16")


def took(candidate, median_s):
    return Measured(candidate=candidate, median_s=median_s)


def failed(candidate, trouble):
    return Measured(candidate=candidate, trouble=trouble)


def test_the_fastest_sound_engine_is_taken_and_all_is_said():
    choice = choose(
        [
            took(OPENVINO, 0.02),
            failed(BF16, "golden encoder: expected <= 0.05, found 0.3"),
            took(ORT, 0.01),
        ]
    )

    assert choice.order == (ORT, OPENVINO)
    assert choice.reasons == (
        "openvino f32: 20 ms a sample, not taken",
        "openvino bf16: not taken: golden encoder: expected <= 0.05, found 0.3",
        "ort f32: 10 ms a sample, taken: the fastest that gives the golden vectors",
    )


def test_what_is_as_fast_within_the_noise_gives_way_to_what_is_listed_first():
    choice = choose([took(OPENVINO, 0.0104), took(BF16, 0.01), took(ORT, 0.02)])

    assert choice.order == (OPENVINO, BF16, ORT)
    assert choice.reasons[0] == (
        "openvino f32: 10.4 ms a sample, taken: within 5% of the fastest, and listed "
        "first"
    )


def test_where_none_can_be_taken_each_says_why():
    with pytest.raises(BackendError) as caught:
        choose([failed(ORT, "no library"), failed(BF16, "no bf16")])

    assert str(caught.value) == (
        "auto: expected an engine that gives the golden vectors, found "
        "ort f32: no library; openvino bf16: no bf16"
    )


@given(
    st.lists(
        st.one_of(
            st.builds(took, st.just(ORT), st.floats(1e-4, 10)),
            st.builds(failed, st.just(BF16), st.just("broken")),
        ),
        max_size=6,
    ).filter(lambda found: any(not one.trouble for one in found))
)
def test_none_that_failed_is_ever_used_and_none_much_slower_is_taken(found):
    choice = choose(found)

    sound = [one for one in found if not one.trouble]
    assert len(choice.order) == len(sound)
    assert BF16 not in choice.order
    fastest_s = min(one.median_s for one in sound)
    taken = [
        one for one, why in zip(found, choice.reasons, strict=True) if ", taken" in why
    ]
    assert len(taken) == 1
    assert taken[0].median_s <= fastest_s * (1 + MARGIN)


class FakeEngine:
    """Doubles its input until it is told to fail."""

    version, keeps_last = "1", True

    def __init__(self, name, failures=(), factor=2):
        self.name, self.failures, self.factor = name, list(failures), factor
        self.calls, self.closed = 0, 0

    def run(self, inputs):
        self.calls += 1
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        return {"y": self.factor * inputs["x"]}

    def close(self):
        self.closed += 1
        if self.name == "dead":
            raise BackendError("dead: the device is gone")


X = {"x": np.ones(3, np.float32)}
GONE = BackendError("tensorrt: the device is gone")


def doubles(engine):
    """The judge: two threes are six."""
    found = engine.factor * 3
    if found != 6:
        raise ParityError(f"golden step ({engine.name}): expected 6, found {found}")


def standby(first, *behind):
    return StandbyEngine("step", first, behind, doubles)


def test_the_next_engine_answers_the_very_call_that_failed():
    first, second = FakeEngine("dead", [None, GONE]), FakeEngine("ort")
    engine = standby(first, lambda: second)

    assert (engine.run(X)["y"] == 2).all()
    assert (second.calls, engine.troubles) == (0, ())
    assert (engine.run(X)["y"] == 2).all()

    assert engine.troubles == (
        "ENGINE_FAILED step: tensorrt: the device is gone; ort took over",
    )
    assert (engine.name, first.closed, second.calls) == ("ort", 1, 1)
    engine.run(X)
    assert (first.calls, second.calls, len(engine.troubles)) == (2, 2, 1)


def test_engines_that_cannot_be_had_are_passed_over():
    def missing():
        raise BackendError("openvino: expected the library openvino, found none")

    broken, last = FakeEngine("openvino", [GONE]), FakeEngine("ort")
    engine = standby(FakeEngine("first", [GONE]), missing, lambda: broken, lambda: last)

    engine.run(X)

    assert (engine.name, broken.closed) == ("ort", 1)


def test_an_engine_that_computes_wrongly_never_answers():
    wrong, sound = FakeEngine("openvino", factor=2.5), FakeEngine("ort")
    engine = standby(FakeEngine("first", [GONE]), lambda: wrong, lambda: sound)

    assert (engine.run(X)["y"] == 2).all()

    assert (wrong.calls, wrong.closed) == (0, 1)
    assert engine.name == "ort"


def test_where_what_is_left_computes_wrongly_the_call_fails_and_says_why():
    first, wrong = FakeEngine("first", [GONE]), FakeEngine("ort", factor=3)
    engine = standby(first, lambda: wrong)

    with pytest.raises(BackendError) as caught:
        engine.run(X)

    assert str(caught.value) == (
        "tensorrt: the device is gone; golden step (ort): expected 6, found 9"
    )
    assert (wrong.calls, wrong.closed, first.closed) == (0, 1, 0)
    assert (engine.name, engine.troubles) == ("first", ())


def test_what_was_of_no_use_once_is_asked_again_at_the_next_failure():
    """Short of memory in one moment, it may be had in the next."""
    asked = []

    def short_of_memory_at_first():
        asked.append(1)
        if len(asked) == 1:
            raise BackendError("ort: out of memory")
        return FakeEngine("ort")

    engine = standby(FakeEngine("first", [GONE, GONE]), short_of_memory_at_first)

    with pytest.raises(BackendError, match="the device is gone; ort: out of memory"):
        engine.run(X)
    assert (engine.run(X)["y"] == 2).all()
    assert (engine.name, len(asked)) == ("ort", 2)


def test_one_that_was_passed_over_is_behind_the_one_that_took_over():
    wrong = [FakeEngine("openvino", factor=2.5), FakeEngine("openvino")]
    last = FakeEngine("ort", [None, GONE])
    engine = standby(FakeEngine("a", [GONE]), lambda: wrong.pop(0), lambda: last)

    engine.run(X)
    assert engine.name == "ort"
    engine.run(X)

    assert (engine.name, last.closed, wrong) == ("openvino", 1, [])


def test_the_last_failure_is_the_callers():
    engine = standby(FakeEngine("only", [GONE]))

    with pytest.raises(BackendError, match="the device is gone"):
        engine.run(X)
    # The next volume tries again: it may have been that one input.
    assert (engine.run(X)["y"] == 2).all()
    assert engine.troubles == ()


def test_a_callers_mistake_moves_nothing():
    mistake = TensorMismatchError("x", expected="3", found="4")
    second = FakeEngine("ort")
    engine = standby(FakeEngine("first", [mistake]), lambda: second)

    with pytest.raises(TensorMismatchError):
        engine.run(X)

    assert (engine.name, second.calls) == ("first", 0)


def test_the_account_of_a_failure_fits_into_an_outcome():
    engine = standby(
        FakeEngine("a", [BackendError("x" * 5000)]), lambda: FakeEngine("ort")
    )

    engine.run(X)

    assert len(engine.troubles[0]) <= 512


def test_closing_closes_what_computes_and_opens_nothing():
    first, opened = FakeEngine("first"), []
    engine = standby(first, lambda: opened.append(1))

    engine.close()

    assert (first.closed, opened) == (1, [])


def test_what_a_bundle_is_written_in_is_measured_and_nothing_else():
    with open_bundle(tiny_bundle()) as bundle:
        plain = bundle.manifest
    step = plain.graph("step")
    int8, fp8 = (msgspec.structs.replace(step, precision=p) for p in EIGHT_BITS)
    whole = msgspec.structs.replace(plain, graphs=(*plain.graphs, int8, fp8))

    found = candidates_of(whole)

    assert [str(one) for one in candidates_of(plain)] == [
        "openvino f32", "ort f32", "tensorrt f32", "ort_cuda f32", "openvino bf16",
    ]  # fmt: skip
    assert [str(one) for one in found[5:]] == [
        "openvino int8", "ort int8", "tensorrt int8", "tensorrt fp8",
    ]  # fmt: skip


def test_floating_point_of_8_bits_is_for_those_who_compute_it_as_it_is_written():
    with open_bundle(tiny_bundle()) as bundle:
        plain = bundle.manifest
    step = msgspec.structs.replace(plain.graph("step"), precision="fp8")
    manifest = msgspec.structs.replace(plain, graphs=(*plain.graphs, step))

    for backend, told in (("tensorrt", "fp8"), ("ort", "f32"), ("reference", "f32")):
        graphs = [graph_of(manifest, n, backend, "fp8") for n in ("encoder", "step")]
        assert [graph.precision for graph in graphs] == ["f32", "fp8"]
        assert [told_precision(g, backend, "fp8") for g in graphs] == ["f32", told]
    for backend in ("openvino", "ort_cuda"):
        with pytest.raises(BackendError) as caught:
            graph_of(manifest, "encoder", backend, "fp8")
        assert str(caught.value) == (
            "fp8: expected one of the backends tensorrt, ort, reference, found "
            f"{backend}. Choose tensorrt, or another precision."
        )
    with pytest.raises(BundleError, match="expected a graph step in fp8, found enc"):
        graph_of(plain, "encoder", "tensorrt", "fp8")


class FakeClock:
    """Each reading is later by what the current model takes."""

    now_ns, step_ns = 0, 0

    def __call__(self):
        self.now_ns += self.step_ns
        return self.now_ns


@pytest.mark.slow
def test_a_bundle_chooses_among_engines_that_give_its_golden_vectors():
    clock = FakeClock()
    paces = {"ort": 2_000_000, "reference": 7_000_000}
    closed = []

    def opened(bundle, backend, precision, threads, cache, parts):
        model = open_model(
            bundle, backend, precision, threads, cache=cache, parts=parts
        )
        clock.step_ns = paces[backend]
        close = model.close
        model.close = lambda: (closed.append(backend), close())
        return model

    with open_bundle(tiny_bundle()) as bundle:
        choice = choose_engine(
            bundle,
            threads=1,
            clock=clock,
            candidates=[
                Candidate("reference", "f32"),
                Candidate("ort", "bf16"),
                ORT,
                Candidate("tflite", "f32"),
            ],
            opened=opened,
        )

    assert choice.order == (ORT, Candidate("reference", "f32"))
    assert choice.reasons[0] == "reference f32: 7 ms a sample, not taken"
    assert choice.reasons[2].startswith("ort f32: 2 ms a sample, taken")
    assert closed == ["reference", "ort"]


@pytest.mark.slow
def test_a_candidate_whose_graph_is_absent_is_passed_over_and_said():
    with open_bundle(tiny_bundle()) as bundle:
        unrolled = [
            msgspec.structs.replace(graph, precision="int8")
            for graph in bundle.manifest.graphs
            if graph.name in ("decode_flow", "encode_flow")
        ]
        graphs = (*bundle.manifest.graphs, *unrolled)
        manifest = msgspec.structs.replace(bundle.manifest, graphs=graphs)
        choice = choose_engine(
            dataclasses.replace(bundle, manifest=manifest),
            threads=1,
            clock=FakeClock(),
            candidates=[Candidate("openvino", "int8"), ORT],
        )

    assert choice.order == (ORT,)
    assert choice.reasons[0] == (
        "openvino int8: not taken: manifest.json: expected a graph step in int8, found "
        "encoder, retrieval, decoder, step, decode_flow, encode_flow, decode_flow "
        "int8, encode_flow int8. Export it with --precisions f32 int8, or choose "
        "another precision."
    )


@pytest.mark.slow
def test_a_graph_that_is_there_and_not_sound_is_no_reason_to_take_another():
    def damaged(*_, **__):
        raise BundleError("graphs/step.onnx: expected an ONNX graph, found none")

    with open_bundle(tiny_bundle()) as bundle, pytest.raises(BundleError):
        choose_engine(bundle, threads=1, clock=FakeClock(), opened=damaged)


@pytest.mark.slow
def test_a_model_whose_engine_fails_goes_on_with_the_next_one(monkeypatch):
    with open_bundle(tiny_bundle()) as bundle:
        golden = bundle.golden()
        with open_model(bundle, "reference", behind=["ort"]) as model:
            assert model.backend.startswith("reference ")
            monkeypatch.setattr(
                "runtime.engines.reference.Evaluation.__call__",
                lambda *_: (_ for _ in ()).throw(BackendError("reference: gone")),
            )

            z_n = model.encode_voxels(golden["voxels"][0])

            np.testing.assert_allclose(z_n, golden["z_n"][0], rtol=1e-4, atol=1e-5)
            assert model.backend.startswith("ort ")
            assert model.troubles == (
                "ENGINE_FAILED encoder: reference: gone; ort took over",
            )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["unrolled", "step"])
@pytest.mark.parametrize(
    ("call", "source", "wanted"),
    [("decode_latent", "z_n", "z_v"), ("encode_latent", "z_v", "z_n_encoded")],
)
def test_who_takes_over_a_flow_runs_it_as_suits_itself_and_within_the_gate(
    monkeypatch, form, call, source, wanted
):
    """OpenVINO keeps a copy of the weights for each step of an unrolled graph."""
    opened, calls = [], []
    run = OpenVinoEngine.run

    def recorded(backend, path, graph, **options):
        opened.append((backend, path.name, graph.name))
        return open_engine(backend, path, graph, **options)

    def counted(engine, inputs):
        calls.append(set(inputs))
        return run(engine, inputs)

    with open_bundle(tiny_bundle()) as bundle:
        golden = {k: v.astype(np.float32) for k, v in bundle.golden().items()}
        evaluations = bundle.manifest.flow.decode_evaluations
        with open_model(bundle, "ort", form=form, behind=["openvino"]) as model:
            monkeypatch.setattr(model_module, "open_engine", recorded)
            monkeypatch.setattr(OpenVinoEngine, "run", counted)
            monkeypatch.setattr(
                OrtEngine, "run", lambda *_: (_ for _ in ()).throw(BackendError("gone"))
            )

            first = getattr(model, call)(golden[source][0])
            calls.clear()
            again = getattr(model, call)(golden[source][0])

            assert opened == [("openvino", "step.onnx", "step")]
            assert calls == [{"z", "modulation", "weights"}] * evaluations
            assert judge("all", golden[wanted][0], again).rel_l2 <= LIMITS["f32"].rel_l2
            np.testing.assert_array_equal(first, again)
            assert model.troubles[0].endswith("openvino took over")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "used", "call"),
    [
        ("unrolled", "encoder", lambda m, g: m.encode_voxels(g["voxels"][0])),
        ("unrolled", "retrieval", lambda m, g: m.project_voxels(g["voxels"][0])),
        ("unrolled", "decoder", lambda m, g: m.predict_voxels(g["z_n_encoded"][0])),
        ("unrolled", "decode_flow", lambda m, g: m.decode_latent(g["z_n"][0])),
        ("step", "step", lambda m, g: m.encode_latent(g["z_v"][0])),
    ],
)
def test_no_graph_is_answered_by_a_second_engine_that_computes_wrongly(
    monkeypatch, form, used, call
):
    run = OrtEngine.run

    def off(engine, inputs):
        found = run(engine, inputs)
        return {name: (1 + 1e-3) * array for name, array in found.items()}

    with open_bundle(tiny_bundle()) as bundle:
        golden = {k: v.astype(np.float32) for k, v in bundle.golden().items()}
        with open_model(bundle, "reference", form=form, behind=["ort"]) as model:
            monkeypatch.setattr(
                "runtime.engines.reference.Evaluation.__call__",
                lambda *_: (_ for _ in ()).throw(BackendError("reference: gone")),
            )
            monkeypatch.setattr(OrtEngine, "run", off)

            with pytest.raises(BackendError) as caught:
                call(model, golden)

            first, refused = str(caught.value).split("; ")
            name = "decode_flow" if used == "step" else used
            assert first == "reference: gone"
            assert refused.startswith(
                f"golden {name} (ort f32): expected relative L2 error <= 1e-05, found"
            )
            assert model.troubles == ()


@pytest.mark.slow
def test_a_server_measures_apart_and_is_told_what_and_why(tmp_path):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from verbs.measured_choice import measured_choice\n"
        "choice = measured_choice(Path(sys.argv[1]), trust=None, threads=1)\n"
        "assert not {'openvino', 'onnxruntime'} & sys.modules.keys()\n"
        "print(choice.backend, choice.precision, *choice.behind)\n"
        "print(*choice.reasons, sep='\\n')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_bundle())],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )

    taken, *reasons = done.stdout.splitlines()
    assert set(taken.split()) - {"f32", "bf16"} == {"ort", "openvino"}
    assert len(reasons) == 5
    assert sum("taken: " in line and "not taken" not in line for line in reasons) == 1
