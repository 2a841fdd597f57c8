"""Which runs a server takes: none that a decoder could not begin."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bci_bridge.admission import LONGEST_RUN_S, Admission
from bci_bridge.messages import RunStart
from runtime.errors import PeerError

SHAPE = (4, 3, 3)
ADMISSION = Admission(
    bundle_sha256="a" * 64, gallery_sha256="b" * 64, shape=SHAPE, takes_any_grid=True
)
START = RunStart(
    run="r", stream="s", sequence=0, shape=SHAPE, tr_s=2.0, expected_volumes=300,
    budget_s=0.5,
)  # fmt: skip


def started(**changes):
    return msgspec.structs.replace(START, **changes)


def row_major(matrix):
    return tuple(np.asarray(matrix, dtype=float).ravel().tolist())


def test_a_run_that_lasts_longer_than_any_scan_is_refused():
    ADMISSION.check(started(expected_volumes=int(LONGEST_RUN_S / 2)))
    # A fast test plays as many volumes as the wire can number.
    ADMISSION.check(started(expected_volumes=100_000, tr_s=0.02))

    with pytest.raises(PeerError) as error:
        ADMISSION.check(started(expected_volumes=100_000))

    assert str(error.value) == (
        "BAD_GEOMETRY: expected_volumes: expected a run of at most 21,600 s, found "
        "100,000 volumes of 2 s, 200,000 s"
    )


def test_a_grid_larger_than_any_scan_is_refused():
    affine = row_major(np.eye(4))
    ADMISSION.check(started(shape=(256, 256, 256), affine=affine))

    with pytest.raises(PeerError) as error:
        ADMISSION.check(started(shape=(256, 256, 257), affine=affine))

    assert str(error.value) == (
        "BAD_GEOMETRY: shape: expected at most 16,777,216 voxels, found 16,842,752"
    )


def test_a_sender_that_says_that_it_tells_less_than_the_bundle_asks_is_refused():
    asking = msgspec.structs.replace(ADMISSION, confounds=("resp", "cardiac"))
    asking.check(started(confound_names=("cardiac", "fd", "resp")))
    # One that does not say may tell them all the same; each volume shows it.
    asking.check(started())
    ADMISSION.check(started(confound_names=()))

    for told, lacking in (((), "resp, cardiac"), (("resp",), "cardiac")):
        with pytest.raises(PeerError) as error:
            asking.check(started(confound_names=told))
        assert str(error.value) == (
            "WRONG_BUNDLE: confounds: expected resp, cardiac with every volume, as the "
            f"bundle asks, found a sender that tells no {lacking}. Tell them (play "
            "--confounds), or serve a bundle that asks for none"
        )


def test_of_many_confounds_a_refusal_names_some():
    many = tuple(f"c{number}" for number in range(24))
    asking = msgspec.structs.replace(ADMISSION, confounds=many)

    with pytest.raises(PeerError, match="expected c0, c1, c2 and 21 more with every"):
        asking.check(started(confound_names=()))


turns = st.lists(st.floats(-180, 180), min_size=3, max_size=3)
sides = st.lists(st.floats(0.2, 20), min_size=3, max_size=3)
shifts = st.lists(st.floats(-500, 500), min_size=3, max_size=3)


@given(turns, sides, shifts, st.booleans())
def test_every_affine_that_a_scanner_could_have_is_taken(turn, side, shift, is_flipped):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * side
    matrix[:3, 3] = shift
    if is_flipped:
        matrix[:3, 0] *= -1

    ADMISSION.check(started(affine=row_major(matrix)))


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((4, 4)),
        np.diag([3.0, 3.0, 0.0, 1.0]),
        np.diag([3.0, 3.0, 3.0, 0.0]),
        np.diag([3.0, 3.0, 3.0, 2.0]),
        np.diag([1e-300, 1e-300, 1e-300, 1.0]),
        np.diag([1e200, 1e200, 1e200, 1.0]),
        np.full((4, 4), 1e308),
        [[1, 2, 3, 0], [2, 4, 6, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    ],
    ids=["zero", "flat", "row 0", "row 2", "tiny", "huge", "overflowing", "parallel"],
)
def test_an_affine_that_places_nothing_is_refused(matrix):
    affine = row_major(matrix)

    with pytest.raises(PeerError, match="affine: expected three axes in millimetres"):
        ADMISSION.check(started(affine=affine))
    # Without motion correction nobody looks at it.
    plain = msgspec.structs.replace(ADMISSION, takes_any_grid=False)
    plain.check(started(affine=affine))
