"""A flow driven step by step is the solver's, bit for bit."""

import numpy as np
import pytest

from runtime.engines.standby import StandbyEngine
from runtime.errors import BackendError
from runtime.solver import SOLVERS, time_grid, trajectory
from runtime.stepped import _BLOCK, Course, Terms, driven, sum_weights

SHAPE = (1, 5, _BLOCK // 4)  # more than one block holds
WEIGHT = np.float32(0.3)


class Shifting:
    """An engine whose velocity is a multiple of the state and a shift; has a buffer."""

    name, version, keeps_last = "shifting", "0", False

    def __init__(self):
        self.buffer = np.empty(SHAPE, np.float32)

    def run(self, inputs):
        np.multiply(inputs["z"], WEIGHT, out=self.buffer)
        self.buffer += inputs["modulation"][0, 0]
        return {"velocity": self.buffer}

    def close(self):
        pass


class Summing:
    """The same, which makes the sum of a step of it and keeps what it was told."""

    name, version, keeps_last = "summing", "0", True

    def __init__(self):
        self.shifting, self.told = Shifting(), []
        self.buffer, self.other = np.empty((2, *SHAPE), np.float32)

    def run(self, inputs):
        self.buffer, self.other = self.other, self.buffer
        assert not np.shares_memory(inputs["z"], self.buffer)
        by_z, by_velocity = inputs["weights"]
        self.told.append((float(by_z), float(by_velocity)))
        found = self.shifting.run(inputs)["velocity"]
        np.add(by_z * inputs["z"], by_velocity * found, out=self.buffer)
        return {"state": self.buffer}

    def close(self):
        pass


def velocity(rows):
    given = iter(rows)
    return lambda z, _t: z * WEIGHT + next(given)[0]


@pytest.fixture(name="z")
def _z():
    return np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_every_state_is_that_of_the_solver_on_arrays(solver, direction, z):
    times = time_grid(3, direction)
    rows = np.linspace(-1, 1, 3 * solver.evaluations, dtype=np.float32)[:, None]
    given = z.copy()
    course = Course(rows, times, solver)

    found = [state.copy() for state in driven(Shifting(), course, z)]

    wanted = list(trajectory(velocity(rows), given, times, solver))
    assert all(state.dtype == np.float32 for state in found)
    np.testing.assert_array_equal(found, wanted)
    assert (z == given).all()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_a_graph_that_makes_the_sum_gives_the_same_states(solver, direction, z):
    times = time_grid(3, direction)
    rows = np.linspace(-1, 1, 3 * solver.evaluations, dtype=np.float32)[:, None]
    given, step, weights = z.copy(), Summing(), sum_weights(solver, times)

    flow = driven(step, Course(rows, times, solver, weights), z)
    found = [state.copy() for state in flow]

    wanted = list(trajectory(velocity(rows), given, times, solver))
    np.testing.assert_array_equal(found, wanted)
    assert (z == given).all()
    assert len(step.told) == 3 * solver.evaluations
    assert (set(step.told) == {(0.0, 1.0)}) is (solver.evaluations > 1)


def test_the_state_of_a_graph_is_taken_and_not_summed_again(z):
    solver, times = SOLVERS["euler"], time_grid(2, "decode")
    rows, step = np.zeros((2, 1), np.float32), Summing()
    # Other weights than the solver's: who sums by itself finds another state.
    course = Course(rows, times, solver, np.float32([[0, 0], [0, 0]]))

    first, second = driven(step, course, z)

    assert (first == 0).all()
    assert (second == 0).all()
    assert second is step.buffer  # not copied: the caller copies the last
    assert first is step.other


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_flow_has_one_array_and_that_is_its_own(solver, z):
    rows, step = np.zeros((2 * solver.evaluations, 1), np.float32), Shifting()
    course = Course(rows, time_grid(2, "decode"), solver)

    first, second = driven(step, course, z)

    assert first is second
    assert not np.shares_memory(first, z)
    assert not np.shares_memory(first, step.buffer)
    assert not np.shares_memory(first, list(driven(step, course, z))[-1])


class Dying:
    """A graph that makes sums, with one buffer, written to before the last call fails.

    So does a GPU that is lost while its answer is copied.
    """

    name, version, keeps_last = "dying", "0", False

    def __init__(self):
        self.summing, self.buffer = Summing(), np.empty(SHAPE, np.float32)

    def run(self, inputs):
        state = self.summing.run(inputs)["state"]
        if len(self.summing.told) == 3:
            self.buffer[:] = np.nan
            raise BackendError("dying: gone")
        self.buffer[:] = state
        return {"state": self.buffer}

    def close(self):
        pass


def test_an_engine_that_fails_leaves_the_state_to_the_one_behind_it(z):
    solver, times = SOLVERS["euler"], time_grid(4, "decode")
    rows = np.linspace(-1, 1, 4, dtype=np.float32)[:, None]
    course = Course(rows, times, solver, sum_weights(solver, times))
    behind = StandbyEngine("step", Dying(), [Summing], lambda _engine: None)

    found = [state.copy() for state in driven(behind, course, z)]

    assert behind.name == "summing"
    np.testing.assert_array_equal(
        found, [state.copy() for state in driven(Summing(), course, z)]
    )


def test_terms_are_computed_from_left_to_right(z):
    y = z[..., ::-1]  # of another order in memory
    x = np.float32(1e8) * y

    found = (Terms((None, x)) + 0.1 * Terms((None, z)) + Terms((None, y))).state()

    np.testing.assert_array_equal(found, (x + 0.1 * z) + y)
    assert Terms((None, x)).state() is x
