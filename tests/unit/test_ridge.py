"""Ridge regression against the normal equations, and its honest choice of penalty."""

import numpy as np
import pytest

from training.ridge import PENALTIES, fit_ridge, fit_ridge_tuned


def problem(samples=60, inputs=8, targets=3, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, inputs)) + rng.uniform(-5, 5, inputs)
    weights = rng.standard_normal((inputs, targets))
    y = x @ weights + 7 + noise * rng.standard_normal((samples, targets))
    return x, y


def explained(targets):
    def score(predicted, index):
        return -float(np.square(predicted - targets[index]).mean())

    return score


@pytest.mark.parametrize(("samples", "inputs"), [(60, 8), (10, 10), (12, 40)])
@pytest.mark.parametrize("penalty", [0.1, 30.0])
def test_weights_solve_the_normal_equations_with_more_or_fewer_inputs_than_samples(
    samples, inputs, penalty
):
    x, y = problem(samples, inputs)

    fitted = fit_ridge(x, y, penalty)

    X, Y = x - x.mean(axis=0), y - y.mean(axis=0)
    wanted = np.linalg.solve(X.T @ X + penalty * np.eye(inputs), X.T @ Y)
    np.testing.assert_allclose(fitted.weights, wanted, rtol=1e-9, atol=1e-11)
    dual = X.T @ np.linalg.solve(X @ X.T + penalty * np.eye(samples), Y)
    np.testing.assert_allclose(fitted.weights, dual, rtol=1e-9, atol=1e-11)


def test_the_intercept_is_not_penalised():
    x, y = problem()

    shrunk = fit_ridge(x, y, 1e12)

    np.testing.assert_allclose(shrunk.predict(x), np.tile(y.mean(axis=0), (60, 1)))


def test_shifted_inputs_and_targets_shift_the_prediction_alone():
    x, y = problem()

    plain = fit_ridge(x, y, 3.0).predict(x)
    shifted = fit_ridge(x + 100, y - 20, 3.0).predict(x + 100)

    np.testing.assert_allclose(shifted, plain - 20, rtol=1e-9)


def test_float32_is_computed_in_float64():
    x, y = problem()
    x32, y32 = x.astype(np.float32), y.astype(np.float32)

    predicted = fit_ridge(x32, y32, 1.0).predict(x32)

    wanted = fit_ridge(x32.astype(np.float64), y32.astype(np.float64), 1.0)
    np.testing.assert_array_equal(predicted, wanted.predict(x32.astype(np.float64)))


def test_the_penalty_is_the_best_of_explicit_leave_one_group_out():
    x, y = problem(samples=24, inputs=30, noise=3.0)
    groups = np.repeat(np.arange(4), 6)

    fitted, reached = fit_ridge_tuned(x, y, groups, explained(y))

    def loss(penalty):
        total = 0.0
        for group in range(4):
            held = groups == group
            model = fit_ridge(x[~held], y[~held], penalty)
            total += np.square(model.predict(x[held]) - y[held]).mean() * held.sum()
        return total / len(x)

    assert fitted.penalty == min(PENALTIES, key=loss)
    assert reached == pytest.approx(-loss(fitted.penalty))
    whole = fit_ridge(x, y, fitted.penalty)
    np.testing.assert_array_equal(fitted.weights, whole.weights)


def test_a_left_out_group_is_predicted_from_the_other_groups_alone():
    x, y = problem(samples=24)
    groups = np.repeat(np.arange(4), 6)
    seen = []

    def score(predicted, index):
        seen.append((predicted.copy(), index.copy()))
        return 0.0

    fit_ridge_tuned(x, y, groups, score, penalties=(2.0,))

    assert [set(groups[index]) for _, index in seen] == [{0}, {1}, {2}, {3}]
    for predicted, index in seen:
        held = np.isin(np.arange(24), index)
        # Targets of the held group are spoiled: they must not matter.
        spoiled = np.where(held[:, None], np.nan, y)
        alone = fit_ridge(x[~held], spoiled[~held], 2.0).predict(x[held])
        np.testing.assert_array_equal(predicted, alone)


def test_trials_of_one_group_count_by_their_number():
    x, y = problem(samples=25)
    groups = np.array([0] * 20 + [1] * 5)

    def score(predicted, index):
        # The small group prefers the small penalty by more, the large one counts.
        small = predicted.std(axis=0).max() > 0.01
        return (1.0 if small else 0.0) if len(index) == 5 else (0.0 if small else 0.5)

    fitted, reached = fit_ridge_tuned(x, y, groups, score, (1e-3, 1e9))

    assert fitted.penalty == 1e9
    assert reached == pytest.approx(0.5 * 20 / 25)


def test_ties_go_to_the_larger_penalty():
    x, y = problem()
    groups = np.repeat(np.arange(3), 20)

    fitted, _ = fit_ridge_tuned(x, y, groups, lambda predicted, index: 1.0)

    assert fitted.penalty == max(PENALTIES)
