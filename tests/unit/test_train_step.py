"""The benchmark of a training step takes the product's own, and the same by hand."""

import csv
import importlib
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from unittest import mock

import msgspec
import pytest
import torch

from runtime.errors import ConfigError
from runtime.path import path_from_name
from training.checkpoint import save_checkpoint
from training.compute import AS_PUBLISHED
from training.fit import fit_flow, fit_neurovae
from training.flow import flow_matching_loss
from training.loop import take_step
from training.losses import Cycle, compare
from training.neurovae import NeuroVAE
from training.ranks import ALONE
from training.state import TrainingState

ROOT = Path(__file__).parents[2]


def module(name):
    with mock.patch.object(sys, "path", [str(ROOT / "benchmarks"), *sys.path]):
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def bench():
    return module("train_step")


@pytest.fixture(scope="module")
def by_hand():
    return module("loop_by_hand")


@pytest.fixture(scope="module")
def report():
    return module("step_report")


def logged(folder):
    with (folder / "history.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["flow", "vae"])
def test_the_step_is_the_one_that_training_takes(bench, tmp_path, name):
    config = bench.resized("tiny", None, 4)
    trials, vae = bench.some_trials(config, 16), tmp_path / "vae"
    weights = NeuroVAE(config.vae).state_dict()
    save_checkpoint(vae, weights, config, stage="vae", seed=0, step=0)

    stage = bench.product_stage(name, config, trials, vae, AS_PUBLISHED)
    state = TrainingState(stage, torch.device("cpu"), ALONE)
    stage.module.train()
    taken = [take_step(stage, state, ALONE)["loss"] for _ in range(4)]

    out = tmp_path / "trained"
    if name == "flow":
        fit_flow(config, trials, vae, out)
    else:
        fit_neurovae(config, trials, out)
    assert logged(out)[:4] == pytest.approx(taken, rel=1e-6)
    assert not (tmp_path / "never-written").exists()


def test_the_losses_by_hand_are_those_of_training(bench, by_hand):
    config = bench.resized("tiny", None, 4)
    generator = torch.Generator().manual_seed(0)
    voxels = torch.randn(4, config.vae.voxels, generator=generator)
    z_v, z_n = torch.randn(2, 4, 8, 12, generator=generator)
    times = torch.rand(4, generator=generator)
    vae = NeuroVAE(config.vae)

    outputs = Cycle(vae)(voxels, z_n)
    found = by_hand.vae_loss_by_hand(outputs, voxels, z_v, config.vae_training)
    expected = compare(outputs, voxels, z_v, config.vae_training).total
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)

    def field(z, t):
        return z * t[:, None, None]

    path = path_from_name("cos")
    torch.testing.assert_close(
        by_hand.flow_loss_by_hand(field, z_v, z_n, times),
        flow_matching_loss(field, z_v, z_n, times, path),
        rtol=1e-5,
        atol=0,
    )


@pytest.mark.slow
def test_no_arm_is_favoured_by_its_place_or_by_whom_it_follows(bench):
    arms = ["a", "b", "c", "d"]
    rounds = [bench.in_turn(arms, i) for i in range(2 * len(arms))]

    places = Counter((arm, place) for one in rounds for place, arm in enumerate(one))
    follows = Counter(pair for one in rounds for pair in pairwise(one))
    assert {sum(one == arm for one, _ in places) for arm in arms} == {len(arms)}
    assert set(places.values()) == {2}
    assert all(follows[a, b] == follows[b, a] for a in arms for b in arms)


def test_runs_of_several_sizes_stand_in_one_table(
    bench, report, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "steps.json"
    common = ["--preset", "tiny", "--arms", "eager", "--rounds", "2"]
    common += ["--batch", "4", "--out", str(file)]
    for more in (["--depth", "1"], ["--stage", "vae"], ["--depth", "1"]):
        monkeypatch.setattr(sys, "argv", ["train_step", *common, *more])
        bench.main()

    runs = msgspec.json.decode(file.read_bytes(), type=report.Report).runs
    assert [(run.stage, run.blocks, run.batch) for run in runs] == [
        ("vae", 2, 4),
        ("flow", 1, 4),
    ]
    for run in runs:
        assert set(run.median) == {"ours, eager", "by hand, eager"}
        assert run.best.ratio == run.ours_over_by_hand["eager"]
        assert run.best.ratio.min <= run.best.ratio.median <= run.best.ratio.max
        assert run.peak_rss_mib > 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("| stage 2, tiny, 1 block | 4 | fp32 | ")
    assert all(line.count("|") == printed[-4].count("|") for line in printed[-4:])

    file.write_bytes(b"[]")
    with pytest.raises(ConfigError, match="expected a report of this benchmark"):
        report.runs_in(file)


def test_the_page_shows_what_was_measured(report):
    runs = report.runs_in(ROOT / "docs" / "train_step.json")
    page = (ROOT / "docs" / "training_scale.md").read_text("utf-8")

    assert runs
    assert report.markdown(runs) in page
    for run in runs:
        assert run.preset == "paper-subj01"
        assert f"--batch {run.batch} " in page
        assert f"--rounds {run.rounds} " in page
