"""What a bundle says of its input: strict, tagged and hashed to the last constant."""

import dataclasses

import msgspec
import pytest
from msgspec import UNSET

from runtime.errors import BundleError
from runtime.estimator import (
    BetaEstimator,
    Estimator,
    ExternalEstimator,
    VolumeEstimator,
    description,
    estimator_sha256,
    live_estimator,
    told_confounds,
    units_of,
)
from runtime.preprocess import Hrf
from runtime.preprocess.motion_settings import Motion

EXTERNAL = ExternalEstimator(name="nsd", detail="b3", normalisation="session-train")
CHANGES = [
    (BetaEstimator(), {"decision_delay_s": 8.0}),
    (BetaEstimator(), {"baseline_volumes": 11}),
    (BetaEstimator(), {"drift_cutoff_s": 64.0}),
    (BetaEstimator(), {"hrf": Hrf(peak_s=5.0)}),
    (BetaEstimator(), {"noise_shrinkage": 0.1}),
    (BetaEstimator(), {"smoothing_fwhm_mm": 4.0}),
    (BetaEstimator(), {"spike_ratio": 1.5}),
    (BetaEstimator(), {"has_slice_times": True}),
    (BetaEstimator(), {"hrf_library": (Hrf(), Hrf(peak_s=5.0))}),
    (BetaEstimator(), {"confounds": ("motion_x_mm",)}),
    (VolumeEstimator(), {"smoothing_fwhm_mm": 4.0}),
    (VolumeEstimator(), {"spike_ratio": 1.5}),
    (BetaEstimator(), {"motion": Motion()}),
    (VolumeEstimator(), {"motion": Motion()}),
    (VolumeEstimator(), {"kind": "linear"}),
    (VolumeEstimator(), {"prior_weight": 5.0}),
    (VolumeEstimator(), {"slope_sd": 0.1}),
    (VolumeEstimator(), {"noise_shrinkage": 0.2}),
    (VolumeEstimator(), {"warming_volumes": 3}),
    (EXTERNAL, {"name": "offline"}),
    (EXTERNAL, {"detail": "another release"}),
    (EXTERNAL, {"normalisation": "session-published-leaky"}),
]


def test_every_field_is_among_the_changes_below():
    for kind in (BetaEstimator, VolumeEstimator, ExternalEstimator):
        named = {name for base, c in CHANGES if type(base) is kind for name in c}
        assert named == set(kind.__struct_fields__)


@pytest.mark.parametrize(("base", "change"), CHANGES)
def test_every_constant_changes_the_hash(base, change):
    other = msgspec.structs.replace(base, **change)

    assert estimator_sha256(other) != estimator_sha256(base)


def test_an_option_that_is_not_set_leaves_the_hash_as_it_was_without_the_option():
    # Bundles that were exported before there were options cite these.
    assert estimator_sha256(BetaEstimator()) == (
        "0db0ad1c2079ec4716ff40fce4b08bdcc1e0a27d7f06015060acaa5d8a1913cc"
    )
    assert estimator_sha256(VolumeEstimator()) == (
        "a288eaab93cd5f0b2fc0a10f7c24a7cbed9aa9a945f6b8ab47f7e376522c880c"
    )


SMOOTHED = BetaEstimator(
    smoothing_fwhm_mm=4.0, hrf_library=(Hrf(), Hrf(peak_s=5.0)), confounds=("a", "b")
)


MOTION = [
    {"fwhm_mm": 8.0},
    {"interpolation": "linear"},
    {"spike_mm": 0.3},
    {"reposition_mm": 5.0},
    {"min_overlap": 0.5},
]


@pytest.mark.parametrize("change", MOTION)
def test_every_constant_of_motion_changes_the_hash(change):
    assert {name for entry in MOTION for name in entry} == set(Motion.__struct_fields__)
    moving = BetaEstimator(motion=Motion())

    other = BetaEstimator(motion=Motion(**change))

    assert estimator_sha256(other) != estimator_sha256(moving)


def test_motion_that_is_measured_here_need_not_be_told():
    names = ("breathing", "motion_x_mm", "motion_yaw_deg")
    still, moving = (
        BetaEstimator(confounds=names, motion=m) for m in (UNSET, Motion())
    )

    assert told_confounds(BetaEstimator()) == ()
    assert told_confounds(still) == names
    assert told_confounds(moving) == ("breathing",)


@pytest.mark.parametrize(
    "estimator",
    [
        BetaEstimator(),
        BetaEstimator(motion=Motion()),
        SMOOTHED,
        VolumeEstimator(),
        EXTERNAL,
    ],
)
def test_what_is_written_is_what_is_read_with_the_same_hash(estimator):
    text = msgspec.json.encode(estimator)

    read = msgspec.json.decode(text, type=Estimator)

    assert read == estimator
    assert estimator_sha256(read) == estimator_sha256(estimator)
    assert len(estimator_sha256(read)) == 64


def test_a_beta_and_a_volume_are_told_apart_by_a_tag():
    assert msgspec.to_builtins(BetaEstimator())["type"] == "beta"
    assert msgspec.to_builtins(VolumeEstimator())["type"] == "volume"
    assert msgspec.to_builtins(EXTERNAL)["type"] == "external"


def test_only_what_is_scaled_within_sessions_is_in_session_units():
    pooled = msgspec.structs.replace(EXTERNAL, normalisation="pooled-train")

    assert units_of(EXTERNAL) == "session z"
    assert {units_of(e) for e in (pooled, BetaEstimator(), VolumeEstimator())} == {
        "percent"
    }


def test_betas_of_others_are_never_live():
    for estimator in (BetaEstimator(), VolumeEstimator()):
        assert live_estimator(estimator) is estimator
    with pytest.raises(BundleError) as error:
        live_estimator(EXTERNAL, "out/bundle")

    assert str(error.value) == (
        "out/bundle: estimator: expected one that is computed volume by volume, found "
        "betas of others, nsd (b3). Judge it with evaluate --trials, or train on "
        "causal betas (prepare-bids)."
    )


def test_every_estimator_says_in_words_what_tells_it_from_others():
    words = {
        description(estimator)
        for estimator in (
            BetaEstimator(),
            BetaEstimator(decision_delay_s=8.0),
            VolumeEstimator(),
            EXTERNAL,
            msgspec.structs.replace(EXTERNAL, normalisation="pooled-train"),
            VolumeEstimator(smoothing_fwhm_mm=4.0),
            BetaEstimator(motion=Motion()),
            VolumeEstimator(motion=Motion()),
        )
    }

    assert len(words) == 8
    assert "8 s after the onset" in " ".join(words)


def test_options_are_said_in_words():
    options = msgspec.structs.replace(SMOOTHED, spike_ratio=1.5, has_slice_times=True)

    assert description(options) == (
        "betas by least squares separate, volume by volume, 12 s after the onset, "
        "smoothed by 4 mm, without spikes above 1.5, by slice times, "
        "one of 2 responses a voxel, confounds a b"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b'{"type":"beta","decision_delay_s":0}',
            "Expected `float` > 0.0 - at `$.decision_delay_s`",
        ),
        # As many columns as volumes leave nothing of a response, and take for ever.
        (
            b'{"type":"beta","drift_cutoff_s":1e-9}',
            "Expected `float` >= 10.0 - at `$.drift_cutoff_s`",
        ),
        (
            b'{"type":"volume","smoothing_fwhm_mm":1e308}',
            "Expected `float` <= 100.0 - at `$.smoothing_fwhm_mm`",
        ),
        (
            b'{"type":"beta","decision_delay_s":1e308}',
            "Expected `float` <= 3600.0 - at `$.decision_delay_s`",
        ),
        (
            b'{"type":"beta","noise_shrinkage":2}',
            "Expected `float` <= 1.0 - at `$.noise_shrinkage`",
        ),
        (
            b'{"type":"volume","kind":"cubic"}',
            "Invalid enum value 'cubic' - at `$.kind`",
        ),
        (
            b'{"type":"volume","baseline_volumes":3}',
            "Object contains unknown field `baseline_volumes`",
        ),
        # No volume could bring them.
        (
            b'{"type":"beta","confounds":["' + b"a" * 65 + b'"]}',
            "Expected `str` of length <= 64 - at `$.confounds[0]`",
        ),
        (
            b'{"type":"beta","confounds":[' + b",".join([b'"a"'] * 33) + b"]}",
            "Expected `array` of length <= 32 - at `$.confounds`",
        ),
        (b'{"type":"trial"}', "Invalid value 'trial' - at `$.type`"),
    ],
)
def test_an_impossible_estimator_is_refused_with_its_place(text, message):
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode(text, type=Estimator)

    assert str(error.value) == message


def test_an_estimator_cannot_be_changed():
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        BetaEstimator().decision_delay_s = 3.0  # type: ignore[misc]
