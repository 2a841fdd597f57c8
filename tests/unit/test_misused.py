"""What the in-process interface is given and cannot use is refused in words."""

import numpy as np
import pytest

from runtime.answers import RunGeometry, Trial
from runtime.bundle import open_bundle
from runtime.encoder import Encoder
from runtime.engines.cache import EngineCache
from runtime.errors import (
    BackendError,
    BundleError,
    ConfigError,
    TensorMismatchError,
    UsageError,
)
from runtime.gallery import open_gallery, write_gallery
from runtime.live import RunDecoder, open_decoder
from runtime.model import open_model
from runtime.overlay import open_overlay
from runtime.patch_dct import PatchDct
from tests.models import served_bundle

# As programs call it: nobody looks at their annotations.
pytestmark = pytest.mark.unchecked

LATENT, VOXELS = (8, 12), 37
EMPTY = '{}: expected a path, found an empty text. Write "." for the current folder.'


@pytest.fixture(scope="module")
def bundle():
    with open_bundle(served_bundle()) as bundle:
        yield bundle


@pytest.fixture(scope="module", params=["ort", "openvino", "reference"])
def model(bundle, request):
    with open_model(bundle, request.param, threads=1, samples=1) as model:
        yield model


WRONG = {
    "one row": np.zeros((1, 12), np.float32),
    "no rows": np.zeros(12, np.float32),
    "a row more": np.zeros((9, 12), np.float32),
    "a batch": np.zeros((1, 8, 12), np.float32),
    "one number": np.float32(1),
    "no dimension": np.array(1, np.float32),
    "wider": np.zeros(LATENT, np.float64),
    "integers": np.zeros(LATENT, np.int32),
    "a list": [[0.0] * 12] * 8,
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("call", ["decode_latent", "encode_latent", "predict_voxels"])
def test_a_latent_is_of_the_bundles_shape_and_type_or_is_refused(model, call, name):
    wrong = WRONG[name]
    found = getattr(wrong, "dtype", type(wrong).__name__)
    if isinstance(wrong, np.ndarray):
        found = f"{found} {list(wrong.shape)}"
    elif isinstance(wrong, np.generic):
        found = type(wrong).__name__
    what = "z_v" if call == "encode_latent" else "z_n"

    with pytest.raises(TensorMismatchError) as caught:
        getattr(model, call)(wrong)

    assert str(caught.value) == f"{what}: expected float32 [8, 12], found {found}"
    assert getattr(model, call)(np.ones(LATENT, np.float32)).dtype == np.float32


@pytest.mark.parametrize("call", ["encode_voxels", "project_voxels"])
@pytest.mark.parametrize("shape", [(), (1,), (36,), (1, 37)])
def test_voxels_are_one_vector_or_refused(model, call, shape):
    with pytest.raises(TensorMismatchError) as caught:
        getattr(model, call)(np.zeros(shape, np.float32))

    assert str(caught.value) == (
        f"voxels: expected float32 [37], found float32 {list(shape)}"
    )


def test_the_encoder_refuses_the_same(model, bundle):
    backbone = PatchDct(image_size=8, patch=4)
    encoder = Encoder(model, backbone, bundle.feature_space())

    for wrong in WRONG.values():
        with pytest.raises(TensorMismatchError, match=r"^z_v: expected float32 \[8, "):
            encoder.predict_latent(wrong)
    with pytest.raises(TensorMismatchError, match=r"^image: expected uint8, found fl"):
        encoder.predict(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(TensorMismatchError) as caught:
        encoder.predict([[[0] * 3] * 8] * 8)
    assert str(caught.value) == (
        "image: expected an array (8, 8, 3) of uint8, found list"
    )


@pytest.mark.parametrize("way", ["to_model", "from_model"])
@pytest.mark.parametrize(
    "wrong",
    [
        np.array(1, np.float32),
        np.zeros(1, np.float32),
        np.zeros((2, 36), np.float32),
        np.zeros(37, np.float64),
        [0.0] * 37,
    ],
)
def test_rows_of_voxels_have_the_masks_number_or_are_refused(bundle, way, wrong):
    space = bundle.feature_space()

    with pytest.raises(TensorMismatchError, match=r"expected float32 \[\.\.\., 37\]"):
        getattr(space, way)(wrong)
    assert getattr(space, way)(np.zeros((0, 37), np.float32)).shape == (0, 37)


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        ({"samples": 0}, "samples: expected at least 1, or None, found 0"),
        ({"samples": -1}, "samples: expected at least 1, or None, found -1"),
        ({"samples": 1.5}, "samples: expected at least 1, or None, found 1.5"),
        (
            {"parts": ()},
            "parts: expected some of encoder, retrieval, decoder, decode_flow, "
            "encode_flow, found none",
        ),
        (
            {"parts": ("nothing",)},
            "parts: expected some of encoder, retrieval, decoder, decode_flow, "
            "encode_flow, found nothing",
        ),
        (
            {"parts": "encoder"},
            "parts: expected some of encoder, retrieval, decoder, decode_flow, "
            "encode_flow, found the text encoder",
        ),
        ({"form": "loop"}, "form: expected unrolled or step, found loop"),
        ({"threads": 1.5}, "threads: expected a whole number, found 1.5"),
        ({"threads": 0}, "threads: expected at least 1, found 0"),
        ({"threads": 10**12}, f"threads: expected at most 4096, found {10**12}"),
        (
            {"behind": "openvino"},
            "behind: expected a list of backends, found the text openvino. Write "
            "['openvino'].",
        ),
        (
            {"cache": "engines"},
            "cache: expected an EngineCache, found str. Write EngineCache(folder).",
        ),
        (
            {"waiting": "spin"},
            "waiting: expected a Waiting, found str. "
            'Write Waiting("spin") or Waiting("block").',
        ),
    ],
)
def test_a_choice_that_there_is_not_is_refused_before_anything_opens(
    bundle, choice, line
):
    with pytest.raises(UsageError) as caught:
        open_model(bundle, "ort", **choice)

    assert str(caught.value) == line


def test_a_folder_may_be_named_by_text(tmp_path):
    items = np.ones((2, *LATENT), np.float32)
    write_gallery(tmp_path / "g", latents=items, ids=["a", "b"], labels=["x", "y"])
    copies = tmp_path / "copies"

    with open_decoder(
        str(served_bundle()),
        str(tmp_path / "g"),
        threads=1,
        cache=EngineCache(str(tmp_path / "engines")),
        copies=str(copies),
    ) as opened:
        assert [one.name for one in copies.iterdir()] == [opened.bundle_sha256]
        with pytest.raises(BundleError, match="overlay"):
            open_overlay(str(tmp_path / "no overlay"), opened.bundle)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: open_bundle(None), "bundle: expected a path, found NoneType"),
        (
            lambda: open_bundle(served_bundle(), EngineCache("engines")),
            "cache of verified copies: expected a path, found EngineCache",
        ),
        (
            lambda: open_decoder(served_bundle(), 3),
            "gallery: expected a path, found int",
        ),
        (lambda: open_overlay([]), "overlay: expected a path, found list"),
        (lambda: EngineCache(None), "engine cache: expected a path, found NoneType"),
        (lambda: EngineCache(""), EMPTY.format("engine cache")),
        (lambda: open_decoder("", ""), EMPTY.format("bundle")),
        (lambda: open_decoder(served_bundle(), ""), EMPTY.format("gallery")),
        (
            lambda: open_decoder(served_bundle(), "g", copies=""),
            EMPTY.format("cache of verified copies"),
        ),
    ],
)
def test_what_names_no_folder_is_refused(call, line):
    with pytest.raises(UsageError) as caught:
        call()

    assert str(caught.value) == line


def test_a_misspelt_standby_is_refused_at_the_start(bundle):
    with pytest.raises(BackendError) as caught:
        open_model(bundle, "ort", behind=("reference", "nothing"))

    assert str(caught.value) == (
        "behind: expected some of ort, ort_cuda, openvino, reference, tensorrt, found "
        "nothing"
    )


@pytest.mark.parametrize("backend", ["ort", "openvino", "reference"])
def test_a_closed_model_says_so(bundle, backend):
    model = open_model(bundle, backend, threads=1, samples=1)
    model.close()
    model.close()

    for call, shape in (("encode_voxels", (37,)), ("decode_latent", LATENT)):
        with pytest.raises(UsageError) as caught:
            getattr(model, call)(np.zeros(shape, np.float32))
        assert str(caught.value) == "model: expected one that is open, found it closed"


def test_a_map_that_was_not_opened_says_so(bundle):
    with (
        open_model(bundle, "ort", parts=("encoder",), samples=1) as model,
        pytest.raises(UsageError) as caught,
    ):
        model.encode_latent(np.zeros(LATENT, np.float32))

    assert str(caught.value) == (
        "encode_flow: expected a model that was opened with it, found one with encoder"
    )


def test_a_closed_bundle_has_no_golden_vectors():
    bundle = open_bundle(served_bundle())
    bundle.close()

    with pytest.raises(BundleError, match=r"expected a bundle that is open, found no"):
        bundle.golden()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "gallery"
    items = np.random.default_rng(4).standard_normal((2, *LATENT)).astype(np.float32)
    write_gallery(folder, latents=items, ids=["a", "b"], labels=["x", "y"])
    bundle = open_bundle(served_bundle())
    gallery = open_gallery(folder, bundle.manifest.latent)
    model = open_model(bundle, "ort", threads=1, samples=1)
    with RunDecoder(bundle, gallery, model) as decoder:
        yield decoder


def run(decoder, **changes):
    facts = {"run_id": "1", "shape": decoder.shape, "tr_s": 1.0, "expected_volumes": 50}
    return RunGeometry(**facts | changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"expected_volumes": 0}, "expected_volumes: expected 1 to 100,000, found 0"),
        ({"expected_volumes": -1}, "expected_volumes: expected 1 to 100,000, found -1"),
        (
            {"expected_volumes": 10**9},
            "expected_volumes: expected 1 to 100,000, found 1000000000",
        ),
        (
            {"expected_volumes": 1.5},
            "expected_volumes: expected 1 to 100,000, found 1.5",
        ),
        (
            {"expected_volumes": 90_000},
            "expected_volumes: expected a run of at most 21,600 s, found 90,000 "
            "volumes of 1 s",
        ),
        ({"tr_s": 0.0}, "tr_s: expected positive seconds, found 0.0"),
        ({"tr_s": float("nan")}, "tr_s: expected positive seconds, found nan"),
        ({"tr_s": "1"}, "tr_s: expected positive seconds, found '1'"),
        (
            {"expected_volumes": "50"},
            "expected_volumes: expected 1 to 100,000, found '50'",
        ),
    ],
)
def test_a_run_that_nobody_can_begin_is_refused(decoder, changes, line):
    with pytest.raises(ConfigError) as caught:
        decoder.start_run(run(decoder, **changes))

    assert str(caught.value) == line


def test_a_run_that_memory_does_not_hold_is_refused(decoder, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(RunDecoder, "_begun", full)

    with pytest.raises(ConfigError) as caught:
        decoder.start_run(run(decoder))

    assert str(caught.value) == (
        "expected_volumes: expected a run that memory holds, found 50 volumes"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"onset_s": "5"},
            "onset_s: expected seconds after the run's start, found '5'",
        ),
        (
            {"onset_s": None},
            "onset_s: expected seconds after the run's start, found None",
        ),
        (
            {"onset_s": np.array([5.0])},
            "onset_s: expected seconds after the run's start, found array([5.])",
        ),
        (
            {"onset_s": np.array("5")},
            "onset_s: expected seconds after the run's start, found "
            "array('5', dtype='<U1')",
        ),
        (
            {"onset_s": np.array(np.nan)},
            "onset_s: expected seconds after the run's start, found nan",
        ),
        ({"duration_s": None}, "duration_s: expected a positive number, found None"),
        ({"duration_s": "1"}, "duration_s: expected a positive number, found '1'"),
        ({"trial_id": ""}, "trial_id: expected a text that is not empty, found ''"),
        ({"trial_id": 3}, "trial_id: expected a text that is not empty, found 3"),
    ],
)
def test_a_trial_of_other_things_is_refused_and_nothing_has_changed(
    decoder, changes, line
):
    decoder.start_run(run(decoder))

    with pytest.raises(ConfigError) as caught:
        decoder.add_trial(
            Trial(**{"trial_id": "a", "onset_s": 1.0, "duration_s": 1.0} | changes)
        )

    assert str(caught.value) == line
    assert decoder.end_run() == ()


def test_a_trials_times_may_be_numbers_of_numpy(decoder):
    decoder.start_run(run(decoder, tr_s=np.float32(1)))
    decoder.add_trial(Trial("a", np.float32(1), np.int64(1)))

    assert [report.trial_id for report in decoder.end_run()] == ["a"]


def test_numbers_in_arrays_without_axes_are_numbers(decoder):
    decoder.start_run(run(decoder, tr_s=np.array(1.0)))
    for name, onset_s in zip("ab", np.nditer(np.array([1.0, 2.0])), strict=True):
        decoder.add_trial(Trial(name, onset_s, np.array(1)))
    volume = np.ones(decoder.shape, np.float32)
    reports = [one for i in range(50) for one in decoder.add_volume(i, volume)[1]]

    assert [report.trial_id for report in reports] == ["a", "b"]


@pytest.mark.parametrize("onset_s", [float("nan"), float("inf"), -float("inf"), 1e10])
def test_a_trial_at_no_time_is_refused_as_what_it_is(decoder, onset_s):
    decoder.start_run(run(decoder))

    with pytest.raises(ConfigError) as caught:
        decoder.add_trial(Trial("a", onset_s, 1.0))

    assert str(caught.value) == (
        f"onset_s: expected seconds after the run's start, found {onset_s}"
    )
    decoder.add_trial(Trial("a", 1.0, 1.0))


@pytest.mark.parametrize("index", [-1, 50, 1.5, None])
def test_a_volume_at_no_place_is_refused(decoder, index):
    decoder.start_run(run(decoder))

    with pytest.raises(TensorMismatchError, match=r"^volume_index: expected 0 to 49"):
        decoder.add_volume(index, np.ones(decoder.shape, np.float32))


@pytest.mark.parametrize("index", [-1, 50, 2.5, "x"])
def test_a_skip_at_no_place_is_refused_and_nothing_has_changed(decoder, index):
    decoder.start_run(run(decoder))
    decoder.add_trial(Trial("a", 1.0, 1.0))

    with pytest.raises(TensorMismatchError) as caught:
        decoder.skip_volume(index)

    assert str(caught.value) == f"volume_index: expected 0 to 49, found {index}"
    assert decoder.skip_volume(0) == ()


def test_after_its_end_a_run_takes_nothing_and_answers_nothing_twice(decoder):
    decoder.start_run(run(decoder))
    decoder.add_trial(Trial("a", 30.0, 1.0))
    volume = np.ones(decoder.shape, np.float32)
    decoder.add_volume(0, volume)
    (report,) = decoder.end_run()
    assert (report.trial_id, report.answer.decision) == ("a", "ABSTAIN")

    for call in (
        decoder.end_run,
        lambda: decoder.add_volume(1, volume),
        lambda: decoder.skip_volume(1),
        lambda: decoder.add_trial(Trial("b", 1.0, 1.0)),
        lambda: decoder.early("a"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == "decoder: expected start_run first, found no run"
    decoder.start_run(run(decoder))
    assert decoder.end_run() == ()


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        (float("nan"), "nan"),
        (-1.0, "-1.0"),
        (60.0, "60.0"),
        ("0.5", "'0.5'"),
        (None, "None"),
    ],
)
def test_a_limit_that_is_no_confidence_is_refused_before_anything_opens(limit, found):
    with pytest.raises(UsageError) as caught:
        open_decoder("no bundle", "no gallery", abstain_below=limit)

    assert str(caught.value) == f"abstain_below: expected 0 to 1, found {found}"


def test_a_decoder_that_is_put_together_by_hand_has_no_other_limits(decoder):
    with pytest.raises(UsageError, match=r"^abstain_below: expected 0 to 1, found nan"):
        RunDecoder(
            decoder.bundle, decoder.gallery, decoder.model, abstain_below=float("nan")
        )


def test_a_volume_that_is_no_array_is_refused(decoder):
    decoder.start_run(run(decoder))

    with pytest.raises(TensorMismatchError, match=r"^volume: expected .*, found list$"):
        decoder.add_volume(0, np.ones(decoder.shape, np.float32).tolist())


def test_a_closed_decoder_says_so(tmp_path):
    items = np.ones((2, *LATENT), np.float32)
    write_gallery(tmp_path / "g", latents=items, ids=["a", "b"], labels=["x", "y"])
    bundle = open_bundle(served_bundle())
    gallery = open_gallery(tmp_path / "g", bundle.manifest.latent)
    decoder = RunDecoder(bundle, gallery, open_model(bundle, "ort", samples=1))
    decoder.start_run(run(decoder))
    decoder.close()
    decoder.close()

    for call in (
        lambda: decoder.start_run(run(decoder)),
        lambda: decoder.add_volume(0, np.ones(decoder.shape, np.float32)),
        lambda: decoder.add_trial(Trial("a", 1.0, 1.0)),
        decoder.end_run,
        decoder.encoder,
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert str(caught.value) == (
            "decoder: expected one that is open, found it closed"
        )
