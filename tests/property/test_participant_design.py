import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.participant import design, images, motion, tiny
from training.participant.response import stimulus_response


@settings(max_examples=25, deadline=None)
@given(
    per_run=st.integers(1, 12),
    factor=st.integers(1, 3),
    tr_s=st.sampled_from([0.5, 0.8, 1.0, 1.5, 2.0]),
    seed=st.integers(0, 2**32),
)
def test_every_image_has_its_repeats_and_every_run_its_rest(
    per_run, factor, tr_s, seed
):
    table = msgspec.structs.replace(
        tiny(),
        tr_s=tr_s,
        training_images=per_run * factor,
        training_runs=3 * factor,
    )

    runs = design.build_design(table, np.random.default_rng(seed))

    shown = [t.image for run in runs if run.split == "train" for t in run.trials]
    assert np.all(np.bincount(shown) == 3)
    ids = [t.trial_id for run in runs for t in run.trials]
    assert ids == list(range(len(ids)))
    for run in runs:
        assert run.trials[0].onset_s == table.baseline_s
        last_s = run.trials[-1].onset_s + table.onset_asynchrony_s
        rest_s = run.n_volumes * tr_s - last_s
        assert 0 <= rest_s - (14 if run.split == "live" else 16) < tr_s + 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), index=st.integers(0, 10**5))
def test_a_picture_depends_on_seed_and_index_alone(seed, index):
    table = tiny()

    first = images.render(images.factors_from_index(seed, index), table)
    again = images.render(images.factors_from_index(seed, index), table)

    np.testing.assert_array_equal(first, again)
    assert first.shape == (32, 32, 3)
    assert first.std() > 1
    vector = images.factors_from_index(seed, index).vector()
    assert np.all(np.abs(vector) <= 1.25)


@settings(max_examples=30, deadline=None)
@given(peak_s=st.floats(4, 7), stimulus_s=st.floats(0.5, 6))
def test_a_response_starts_at_nothing_peaks_at_one_and_ends_small(peak_s, stimulus_s):
    response = stimulus_response(np.array([peak_s]), stimulus_s, 1 / 6)[:, 0]

    assert response[0] == 0
    assert response.max() == 1
    assert abs(response[-1]) < 0.08


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(20, 300))
def test_displacement_ignores_where_the_head_lies(seed, n):
    rng = np.random.default_rng(seed)
    poses = motion.draw_poses(n, tiny(), rng)

    shifted = motion.framewise_displacement(poses + rng.standard_normal(6))

    np.testing.assert_allclose(shifted, motion.framewise_displacement(poses), atol=1e-9)
    assert np.all(shifted >= 0)
