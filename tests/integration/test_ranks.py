"""Two processes compute what one does, whole or in shards, and go on from its snapshot.

Processes on CPUs are given the variables that torch's launcher sets on several
machines; ``accelerate launch`` sets the same for GPUs, and cannot start two on CPUs.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import started_together, trained, trained_together

# Processes that train, two at a time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SHARDS = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
FLAVOURS = {"replicas": {}, "shards": SHARDS}


def train(out: Path, *options: object, processes: int = 1, **variables: str) -> str:
    """Train both stages in processes of their own; return what failed ones said."""
    environment = {"ACCELERATE_USE_CPU": "true", **variables}
    if processes > 1:
        status, said = trained_together(processes, out, *options, **environment)
    else:
        status, said = trained(out, *options, **environment).ended()
    return said if status else ""


def history(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "history.csv").read_text().splitlines()
    return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]


def assert_same(one: list[dict[str, float]], two: list[dict[str, float]]) -> None:
    """The losses agree, and their terms and the gradient's norm nearly as well."""
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        # Rounding grows from step to step; the norm sums the squares of all of it.
        assert b == pytest.approx(a, rel=1e-4)


def snapshot(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("snapshot-*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert not train(out)
    return out


@pytest.fixture(scope="module", params=FLAVOURS)
def together(request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    # Parts of two rows: gradients are exchanged after the last of them only.
    options = ("--micro-batch", 2, "--checkpoint-activations")
    assert not train(out, *options, processes=2, **FLAVOURS[request.param])
    return out


@pytest.mark.parametrize("stage", ["vae", "flow"])
def test_two_processes_have_the_loss_of_one_at_every_step(alone, together, stage):
    one, two = history(alone / stage), history(together / stage)

    assert len(one) >= 6
    assert_same(one, two)


@pytest.mark.parametrize("stage", ["vae", "flow"])
def test_one_process_opens_what_two_have_left(alone, together, stage):
    one, two = snapshot(alone / stage), snapshot(together / stage)

    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {
        k: (v.shape, v.dtype) for k, v in two.items()
    }
    assert torch.equal(one["generator"], two["generator"])
    # Averaged gradients agree as losses do. Adam divides a gradient by its own size,
    # which magnifies the rounding of those that are zero but for it, as a key's bias.
    for group, limit in (("optimiser.exp_avg.", 1e-4), ("model.", 1e-3)):
        names = [name for name in one if name.startswith(group)]
        a, b = (torch.cat([held[n].flatten() for n in names]) for held in (one, two))
        assert (a - b).norm() <= limit * a.norm(), group


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_two_processes_go_on_from_the_snapshot_of_one(alone, tmp_path, flavour):
    said = train(tmp_path, "--stop-at", 4)
    assert "stopped on purpose" in said
    before = history(tmp_path / "vae")

    assert not train(tmp_path, processes=2, **FLAVOURS[flavour])

    found = history(tmp_path / "vae")
    assert found[:4] == before[:4] == history(alone / "vae")[:4]
    assert_same(history(alone / "vae"), found)


def test_a_replica_that_is_interrupted_saves_without_a_word_from_the_other(
    alone, tmp_path
):
    # No snapshot is due before the interruption.
    given = (tmp_path, "--interrupt-at", 3, "--snapshot-every", 10**6)
    main, other = started_together(2, *given, ACCELERATE_USE_CPU="true")
    # The other one waits for gradients of step 4, which never come.
    is_over = main.ends_within(120)
    for each in (main, other):
        each.kill()
    said, _ = main.ended()[1], other.ended()

    assert is_over
    assert "KeyboardInterrupt" in said
    assert [file.name for file in (tmp_path / "vae").glob("snapshot-*")] == [
        "snapshot-3.safetensors"
    ]
    assert not train(tmp_path)
    assert_same(history(alone / "vae"), history(tmp_path / "vae"))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    # By torch's own launcher, which all others do without: it imports torch once more.
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [
            sys.executable,
            *launched,
            "-m",
            "tests.ranked",
            str(tmp_path),
            "--batch",
            "7",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )

    assert done.returncode
    said = done.stderr
    assert "batch: expected a multiple of the 2 processes, found 7." in said


def test_the_first_version_of_fsdp_is_refused(tmp_path):
    said = train(tmp_path, processes=2, **SHARDS | {"FSDP_VERSION": "1"})

    assert "FSDP: expected version 2, found 1." in said


def judgements(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "validation.csv").read_text().splitlines()
    return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]


def test_replicas_judge_as_one_process_and_stop_together(tmp_path):
    few = ("--held-out", 0.25, "--dropout", 0.9, "--epochs", 4)
    assert not train(tmp_path / "one", *few)
    assert not train(tmp_path / "two", *few, processes=2)

    for stage in ("vae", "flow"):
        one, two = (judgements(tmp_path / name / stage) for name in ("one", "two"))
        assert len(one) >= 4
        assert [row["step"] for row in one] == [row["step"] for row in two]
        for a, b in zip(one, two, strict=True):
            # As in `assert_same`.
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


def test_shards_cannot_be_judged(tmp_path):
    said = train(tmp_path, "--held-out", 0.25, processes=2, **SHARDS)

    assert "validation_share: expected 0 with weights in shards, found 0.25." in said
