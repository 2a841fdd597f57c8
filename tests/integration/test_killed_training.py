"""Training that is killed at any step goes on to the bits that it would have had."""

import random
import signal
from pathlib import Path

import pytest

from tests.forked import training

# A process that trains, killed and started again.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS = 8
SNAPSHOT_EVERY = 5
STEPS = {"vae": 3 * EPOCHS, "flow": 4 * EPOCHS}
FEW = ("--dropout", "0.9", "--held-out", "0.25")
"""Tokens dropped, two of eight images held out: 18 of 24 trials, two steps an epoch."""


def arguments(out: Path, precision: str, *more: str) -> tuple[object, ...]:
    return (
        *(out, "--announce", "--precision", precision, "--epochs", EPOCHS),
        *("--snapshot-every", SNAPSHOT_EVERY, *more),
    )


def whole_run(out: Path, precision: str, *more: str) -> None:
    with training(*arguments(out, precision, *more)) as process:
        status, said = process.ended()
    assert status == 0, said


def kill_at(out: Path, precision: str, moment: str, *more: str) -> None:
    """Kill training when it has announced a step, without a word before."""
    with training(*arguments(out, precision, *more)) as process:
        for line in process.lines:
            if line.strip() == moment:
                process.kill()
                break
        status, _ = process.ended()
    assert status == -signal.SIGKILL


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_killed_in_each_stage_has_the_history_and_weights_of_a_whole_one(
    precision, tmp_path
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    rng = random.Random(f"{precision}")
    # Past the first snapshot, before the last step, and not at an epoch's end.
    steps = {
        stage: rng.choice([n for n in range(SNAPSHOT_EVERY + 2, last) if n % 3])
        for stage, last in STEPS.items()
    }

    whole_run(whole, precision)
    for stage, step in steps.items():
        kill_at(parts, precision, f"{stage} {step}")
        assert (parts / stage / "snapshot.json").is_file()
        assert not (parts / stage / "config.json").exists()
    whole_run(parts, precision)

    for stage, last in STEPS.items():
        for name in (
            "history.csv",
            "weights.safetensors",
            f"snapshot-{last}.safetensors",
        ):
            one, other = ((out / stage / name).read_bytes() for out in (whole, parts))
            assert one == other, f"{stage}/{name}, killed at {steps}"


def test_early_stopping_with_dropped_tokens_goes_on_to_the_same_bits(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    whole_run(whole, "fp32", *FEW)
    # The run may stop early, so that only its first steps are sure to come.
    for moment in ("vae 8", "vae 9", "flow 7", "flow 10"):
        kill_at(parts, "fp32", moment, *FEW)
    whole_run(parts, "fp32", *FEW)

    for stage in STEPS:
        one, two = whole / stage, parts / stage
        names = {file.name for file in one.glob("*.*") if file.is_file()}
        assert {"history.csv", "validation.csv", "config.json"} <= names
        assert names == {file.name for file in two.glob("*.*") if file.is_file()}
        for name in names:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
