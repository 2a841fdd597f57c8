"""Both stages on held-out images: when they end, what they keep, how they go on."""

import csv
import shutil

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import CheckpointError
from tests.ranked import noisy, ticking, trials
from training.checkpoint import load_flow, load_neurovae, read_manifest
from training.fit import DivergedError, fit_flow, fit_neurovae
from training.ranks import ALONE
from training.validation import hold_out, neurovae_judge

# Training itself.
pytestmark = pytest.mark.slow


def few(vae=None, flow=None, share=0.25):
    config = noisy(dropout=0.9, held_out=share)
    return msgspec.structs.replace(
        config,
        vae_training=msgspec.structs.replace(config.vae_training, **(vae or {})),
        flow_training=msgspec.structs.replace(config.flow_training, **(flow or {})),
    )


def judgements(folder):
    rows = csv.DictReader((folder / "validation.csv").read_text().splitlines())
    return [(int(r["step"]), float(r["loss"]), r["is_best"] == "1") for r in rows]


IMPATIENT = few(
    # So fast that held-out images soon get worse; noise has the training loss fall.
    {"epochs": 60, "learning_rate": 3e-3, "patience": 3},
    {"steps": 120, "learning_rate": 3e-3, "ema_decay": 0.5, "patience": 3},
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    out = tmp_path_factory.mktemp("ended")
    vae = fit_neurovae(IMPATIENT, trials(), out / "vae")
    return vae, fit_flow(IMPATIENT, trials(), vae, out / "flow")


@pytest.mark.parametrize(("stage", "last"), [("vae", 120), ("flow", 120)])
def test_training_ends_with_patience_and_the_checkpoint_says_so(ended, stage, last):
    folder = ended[0] if stage == "vae" else ended[1]
    manifest, seen = read_manifest(folder, stage), judgements(folder)

    stopped = manifest.stopped
    assert stopped.reason == "patience"
    # Nothing is learned from random trials: it ends well before the last step.
    assert stopped.step < last
    assert (stopped.images, stopped.trials) == (2, 6)
    # 18 trials are learned from, eight at a time: two steps an epoch.
    assert [step for step, _, _ in seen] == list(range(2, stopped.step + 1, 2))
    best = min(seen, key=lambda judgement: judgement[1])
    assert (stopped.best_step, stopped.loss) == best[:2]
    assert manifest.step == stopped.best_step == stopped.step - 3 * 2
    lows = np.minimum.accumulate([loss for _, loss, _ in seen])
    assert [is_best for _, _, is_best in seen] == [
        i == 0 or lows[i] < lows[i - 1] for i in range(len(lows))
    ]


def test_the_kept_weights_are_the_ones_that_were_best(ended):
    vae, manifest = load_neurovae(ended[0])
    found = trials().centred()
    _, held = hold_out(found, 0.25, ALONE)

    judge = neurovae_judge(
        vae, found.subset(held), IMPATIENT.vae_training, torch.device("cpu")
    )

    assert judge(vae.state_dict()) == manifest.stopped.loss
    snapshot = load_file(next(ended[0].glob("snapshot-*.safetensors")))
    for name, value in vae.state_dict().items():
        assert torch.equal(value, snapshot[f"best.{name}"])
    assert any(
        not torch.equal(value, snapshot[f"model.{name}"])
        for name, value in vae.state_dict().items()
    )


class KilledError(Exception):
    pass


@pytest.mark.parametrize("error", [KilledError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_resumed_run_ends_where_the_whole_one_did(ended, tmp_path, error, at):
    def on_step(progress):
        if progress.step == at:
            raise error

    for stage, whole in (("vae", ended[0]), ("flow", ended[1])):
        fit = {
            "vae": lambda out, **more: fit_neurovae(IMPATIENT, trials(), out, **more),
            "flow": lambda out, **more: fit_flow(
                IMPATIENT, trials(), ended[0], out, **more
            ),
        }[stage]
        out = tmp_path / stage
        with pytest.raises(error):
            fit(out, on_step=on_step, clock=ticking(), snapshot_every_s=2.5)
        fit(out)
        # A finished one has nothing left to do, and says the same again.
        fit(out)

        for name in ("history.csv", "validation.csv", "config.json"):
            assert (out / name).read_text() == (whole / name).read_text(), name
        one, two = (load_file(f / "weights.safetensors") for f in (out, whole))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_that_patience_ended_is_finished_at_its_learning_rate(ended, tmp_path):
    out = shutil.copytree(ended[0], tmp_path / "vae")
    slower = {"epochs": 60, "learning_rate": 1e-3, "patience": 3}
    flow = {"steps": 120, "learning_rate": 3e-3, "ema_decay": 0.5, "patience": 3}

    with pytest.raises(CheckpointError) as caught:
        fit_neurovae(few(slower, flow), trials(), out)

    step = read_manifest(ended[0], "vae").stopped.step
    assert str(caught.value) == (
        f"{out}: vae_training.learning_rate: expected 0.003, at which this run ended "
        f"after step {step}, found 0.001. It is finished; another --out trains anew"
    )
    assert read_manifest(out, "vae") == read_manifest(ended[0], "vae")


def test_an_interruption_while_judging_loses_nothing(ended, tmp_path, monkeypatch):
    from training import loop

    judge, calls = loop._judge, []

    def interrupted(stage, state, *rest):
        calls.append(state.step)
        # Twice at the same step: after it, and once more when the run goes on.
        if state.step == 4 and calls.count(4) <= 2:
            raise KeyboardInterrupt
        judge(stage, state, *rest)

    monkeypatch.setattr(loop, "_judge", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit_neurovae(IMPATIENT, trials(), tmp_path)
    fit_neurovae(IMPATIENT, trials(), tmp_path)

    for name in ("history.csv", "validation.csv", "config.json"):
        assert (tmp_path / name).read_text() == (ended[0] / name).read_text()


def test_patience_that_never_ends_keeps_the_best_of_all_steps(tmp_path):
    config = few({"patience": 100}, {"patience": 100})

    vae = fit_neurovae(config, trials(), tmp_path / "vae")
    flow = fit_flow(config, trials(), vae, tmp_path / "flow")

    for folder, stage, steps in ((vae, "vae", 4), (flow, "flow", 8)):
        stopped = read_manifest(folder, stage).stopped
        assert (stopped.reason, stopped.step) == ("last step", steps)
        assert stopped.loss == min(loss for _, loss, _ in judgements(folder))


def test_without_held_out_images_nothing_is_said_or_written(tmp_path):
    config = noisy()

    vae = fit_neurovae(config, trials(), tmp_path)

    assert read_manifest(vae, "vae").stopped is None
    assert not (tmp_path / "validation.csv").exists()


def test_a_run_that_diverges_names_its_step_and_leaves_the_old_checkpoint(
    ended, tmp_path
):
    config = few(share=0.25)
    fit_neurovae(config, trials(), tmp_path)
    before = {
        name: (tmp_path / name).read_bytes()
        for name in ("config.json", "weights.safetensors")
    }
    wild = few({"learning_rate": 1e30, "epochs": 5})

    with pytest.raises(
        DivergedError,
        match=r"^vae step \d+: expected a finite .*, found (nan|inf)\. "
        r"No earlier step is kept: begin anew ",
    ):
        fit_neurovae(wild, trials(), tmp_path, resume=False)

    assert not (tmp_path / "snapshot.json").exists()
    for name, data in before.items():
        assert (tmp_path / name).read_bytes() == data, name


def test_the_best_weights_of_before_a_divergence_are_kept(tmp_path):
    def stop(progress):
        if progress.step == 5:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit_neurovae(
            few({"epochs": 5}), trials(), tmp_path, on_step=stop, snapshot_every_s=0.0
        )
    held = load_file(tmp_path / "snapshot-5.safetensors")
    seen = judgements(tmp_path)

    wild = few({"epochs": 5, "learning_rate": 1e30})
    with pytest.raises(DivergedError, match="goes on from step 5, whose weights are"):
        fit_neurovae(wild, trials(), tmp_path)

    vae, manifest = load_neurovae(tmp_path / "last_good")
    best = min(seen, key=lambda judgement: judgement[1])
    assert manifest.stopped.reason == "diverged"
    assert (manifest.stopped.best_step, manifest.stopped.loss) == best[:2]
    assert (manifest.stopped.step, manifest.step) == (5, best[0])
    for name, value in vae.state_dict().items():
        assert torch.equal(value, held[f"best.{name}"]), name


def test_stage_2_is_not_judged_on_images_that_stage_1_has_learned(tmp_path):
    plain = fit_neurovae(noisy(dropout=0.9), trials(), tmp_path / "plain")

    with pytest.raises(
        CheckpointError, match=r"validation_share: expected 0\.25 as here, .* found 0$"
    ):
        fit_flow(few(), trials(), plain, tmp_path / "flow")
    # The other way round nothing is wrong.
    vae = fit_neurovae(few(), trials(), tmp_path / "vae")
    load_flow(fit_flow(noisy(dropout=0.9), trials(), vae, tmp_path / "flow"))
