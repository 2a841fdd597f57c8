"""Each property of the default participant, measured from the files it wrote.

Seed 1, one of the seeds that the table was tuned on; docs/participant.md has others.
"""

import pytest

from training.participant import (
    PROPERTIES,
    ParticipantParameters,
    generate_participant,
)
from training.participant.measure import measure_properties

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def participant(tmp_path_factory):
    out = tmp_path_factory.mktemp("participant") / "default"
    return generate_participant(out, ParticipantParameters(), seed=1)


@pytest.fixture(scope="module")
def measured(participant):
    return measure_properties(participant)


@pytest.mark.parametrize("target", PROPERTIES, ids=lambda target: target.name)
def test_the_default_participant_has_the_property(target, measured):
    found = measured[target.name]

    assert target.low <= found <= target.high, f"{target.name} is {found:.3f}"


def test_a_participant_is_not_larger_than_announced(participant):
    sizes = [run.bold.stat().st_size for run in participant.runs]

    assert 10e6 < sum(sizes) < 120e6
