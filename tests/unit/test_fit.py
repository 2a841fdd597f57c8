import csv
import dataclasses
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import CheckpointError, ConfigError, TensorMismatchError
from training.checkpoint import load_flow, load_neurovae
from training.config import VAETraining, config_from_preset
from training.fit import DivergedError, fit_flow, fit_neurovae
from training.perturb import augment
from training.ranks import OneProcess
from training.trials import BatchOrder, TrialSet, epoch_order

# Training itself.
pytestmark = pytest.mark.slow


def tiny(**flow):
    config = config_from_preset("tiny")
    noisy = msgspec.structs.replace(
        config.vae_training, voxel_noise=0.3, voxel_dropout=0.4
    )
    training = msgspec.structs.replace(config.flow_training, **flow)
    return msgspec.structs.replace(config, vae_training=noisy, flow_training=training)


def trials(seed=0, n=24):
    rng = np.random.default_rng(seed)
    return TrialSet(
        rng.standard_normal((n, 37)).astype(np.float32),
        np.arange(n) % 8,
        rng.standard_normal((8, 8, 12)).astype(np.float32),
    )


class KilledError(Exception):
    pass


def killer(at, error=KilledError):
    def on_step(progress):
        if progress.step == at:
            raise error

    return on_step


def same(a, b):
    one, other = (load_file(f / "weights.safetensors") for f in (a, b))
    assert one.keys() == other.keys()
    return all(torch.equal(one[k], other[k]) for k in one)


def ticking(step_s=1.0):
    now = [0.0]

    def clock():
        now[0] += step_s
        return now[0]

    return clock


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return fit_neurovae(tiny(), trials(), tmp_path_factory.mktemp("vae"))


@pytest.mark.parametrize("every_s", [0.0, 2.5])
def test_a_killed_and_resumed_vae_is_the_uninterrupted_one(vae, tmp_path, every_s):
    for at in (1, 4):
        with pytest.raises(KilledError):
            fit_neurovae(
                tiny(),
                trials(),
                tmp_path,
                on_step=killer(at),
                clock=ticking(),
                snapshot_every_s=every_s,
            )
    fit_neurovae(tiny(), trials(), tmp_path)

    assert same(vae, tmp_path)
    assert (vae / "history.csv").read_text() == (tmp_path / "history.csv").read_text()


@pytest.mark.parametrize("voxel_noise", [0.0, 0.5])
def test_a_killed_and_resumed_flow_is_the_uninterrupted_one(vae, tmp_path, voxel_noise):
    config = tiny(voxel_noise=voxel_noise)
    whole = fit_flow(config, trials(), vae, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit_flow(
            config,
            trials(),
            vae,
            tmp_path / "parts",
            on_step=killer(5),
            snapshot_every_s=0.0,
        )
    parts = fit_flow(config, trials(), vae, tmp_path / "parts")

    assert same(whole, parts)
    _, manifest = load_flow(parts)
    assert manifest.vae_fingerprint == load_neurovae(vae)[1].fingerprint
    assert manifest.step == 8


def test_an_interrupted_run_leaves_its_last_step(vae, tmp_path):
    steps = []
    with pytest.raises(KeyboardInterrupt):
        fit_neurovae(tiny(), trials(), tmp_path, on_step=killer(3, KeyboardInterrupt))
    fit_neurovae(tiny(), trials(), tmp_path, on_step=lambda p: steps.append(p.step))

    assert steps == [4, 5, 6]
    assert same(vae, tmp_path)


class Deserted(OneProcess):
    """From some moment on nobody answers."""

    is_deserted = False

    def agreed(self, value):
        assert not self.is_deserted, "asked others, who may be anywhere"
        return value


def test_an_interrupted_run_saves_without_asking_other_processes(vae, tmp_path):
    ranks, steps = Deserted(), []

    def interrupt(progress):
        if progress.step == 3:
            ranks.is_deserted = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_neurovae(tiny(), trials(), tmp_path, on_step=interrupt, ranks=ranks)
    fit_neurovae(tiny(), trials(), tmp_path, on_step=lambda p: steps.append(p.step))

    assert steps == [4, 5, 6]
    assert same(vae, tmp_path)


def at_rate(rate, stage="vae", **changes):
    """The model of which one stage learns at a rate."""
    config = tiny()
    name = f"{stage}_training"
    training = msgspec.structs.replace(
        getattr(config, name), learning_rate=rate, **changes
    )
    return msgspec.structs.replace(config, **{name: training})


def test_a_loss_that_is_not_finite_at_once_leaves_nothing_to_go_on_from(tmp_path):
    with pytest.raises(DivergedError) as caught:
        fit_neurovae(at_rate(1e30), trials(), tmp_path)

    line = r"vae step 2: expected a finite loss, found (nan|inf)\. "
    assert re.fullmatch(
        line + r"No earlier step is kept: begin anew with a lower learning rate "
        r"\(--config\)",
        str(caught.value),
    )
    assert {file.name for file in tmp_path.iterdir()} == {"history.csv", "tensorboard"}
    # Nothing stands in the way of what is advised.
    fit_neurovae(at_rate(1e-3), trials(), tmp_path)


def test_before_the_first_update_no_learning_rate_is_at_fault(tmp_path):
    sound = trials()
    # Finite, but their squares are not.
    wild = TrialSet(sound.voxels * np.float32(1e25), sound.image, sound.latents)

    with pytest.raises(DivergedError) as caught:
        fit_neurovae(at_rate(1e-3), wild, tmp_path)

    assert re.fullmatch(
        r"vae step 1: expected a finite loss, found (nan|inf)\. Nothing was learned "
        "before it, so that no learning rate is at fault: look for far too large "
        "numbers in the trials and in the configuration "
        r"\(--dry-run prints it\)",
        str(caught.value),
    )


@pytest.mark.parametrize("stage", ["vae", "flow"])
def test_a_run_that_has_ended_keeps_its_learning_rate(vae, tmp_path, stage):
    def fit(rate, **options):
        config = at_rate(rate, stage)
        if stage == "vae":
            return fit_neurovae(config, trials(), tmp_path, **options)
        return fit_flow(config, trials(), vae, tmp_path, **options)

    fit(1e-3)
    before = {file: file.read_bytes() for file in tmp_path.glob("*.*")}
    with pytest.raises(CheckpointError) as caught:
        fit(5e-4)

    steps = {"vae": 6, "flow": 8}[stage]
    assert str(caught.value) == (
        f"{tmp_path}: {stage}_training.learning_rate: expected 0.001, at which this "
        f"run ended after step {steps}, found 0.0005. It is finished; another --out "
        "trains anew"
    )
    assert {file: file.read_bytes() for file in tmp_path.glob("*.*")} == before
    # The same line, and one that begins anew, are as they were.
    fit(1e-3)
    fit(5e-4, resume=False)


@pytest.mark.parametrize("stage", ["vae", "flow"])
def test_a_run_that_diverged_can_be_exported_and_goes_on_at_a_lower_rate(
    vae, tmp_path, stage
):
    def fit(rate, **options):
        config = at_rate(rate, stage)
        if stage == "vae":
            return fit_neurovae(config, trials(), tmp_path, **options)
        return fit_flow(config, trials(), vae, tmp_path, **options)

    read = load_neurovae if stage == "vae" else load_flow
    with pytest.raises(KilledError):
        fit(1e-3, on_step=killer(3), snapshot_every_s=0.0)
    held = load_file(tmp_path / "snapshot-3.safetensors")

    # The next snapshot is not due before it diverges.
    with pytest.raises(DivergedError) as caught:
        fit(1e30)
    module, manifest = read(tmp_path / "last_good")
    steps = []
    fit(5e-4, on_step=lambda p: steps.append(p.step))

    advice = (
        "With a lower learning rate (--config) the same command goes on from step 3, "
        f"whose weights are a checkpoint in {tmp_path / 'last_good'}"
    )
    said = str(caught.value)
    assert said.startswith(f"{stage} step 5: expected a finite "), said
    assert said.endswith(f". {advice}")
    kind = "model" if stage == "vae" else "average"
    for name, value in module.state_dict().items():
        assert torch.equal(value, held[f"{kind}.{name}"]), name
    # It says what its weights were made with.
    trained = getattr(manifest.config, f"{stage}_training")
    assert (manifest.step, trained.learning_rate, manifest.rates) == (3, 1e-3, ())
    assert steps[0] == 4
    _, ended = read(tmp_path)
    assert getattr(ended.config, f"{stage}_training").learning_rate == 5e-4
    assert [(r.step, r.learning_rate) for r in ended.rates] == [(0, 1e-3), (3, 5e-4)]


def test_what_differs_from_a_snapshot_is_named(vae, tmp_path):
    with pytest.raises(KilledError):
        fit_neurovae(at_rate(1e-3), trials(), tmp_path, on_step=killer(3))
    with pytest.raises(KilledError):
        fit_neurovae(
            at_rate(1e-3), trials(), tmp_path, on_step=killer(3), snapshot_every_s=0.0
        )
    manifest = tmp_path / "snapshot.json"
    rest = "Choose an empty folder, or start anew without resuming."

    def refusal(config):
        with pytest.raises(CheckpointError) as caught:
            fit_neurovae(config, trials(), tmp_path)
        return str(caught.value).removeprefix(f"{manifest}: ")

    assert refusal(at_rate(1e-3, epochs=5)) == (
        f"vae_training.epochs: expected 5, found 2. {rest}"
    )
    other_flow = msgspec.structs.replace(tiny().flow_training, learning_rate=7e-3)
    assert refusal(msgspec.structs.replace(tiny(), flow_training=other_flow)) == (
        f"flow_training.learning_rate: expected 0.007, found 0.001. {rest}"
    )
    # A snapshot of before the configuration was kept beside it.
    old = msgspec.json.decode(manifest.read_bytes())
    del old["config"], old["rates"]
    manifest.write_bytes(msgspec.json.encode(old))
    assert re.fullmatch(
        r"config: expected \w{12}, found \w{12}\. " + rest,
        refusal(at_rate(1e-3, epochs=5)),
    )
    fit_neurovae(at_rate(1e-3), trials(), tmp_path)
    assert same(vae, tmp_path)


def mapped_snapshots(folder):
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if f"{folder}/snapshot-" in line]


def test_a_resumed_run_lets_its_snapshot_go(tmp_path):
    with pytest.raises(KilledError):
        fit_neurovae(
            tiny(), trials(), tmp_path, on_step=killer(3), snapshot_every_s=0.0
        )
    held = load_file(tmp_path / "snapshot-3.safetensors")
    # That it is a map while tensors of it live is what makes the other half worth
    # asking.
    assert mapped_snapshots(tmp_path)
    del held
    assert not mapped_snapshots(tmp_path)
    found = []

    fit_neurovae(
        tiny(),
        trials(),
        tmp_path,
        on_step=lambda _: found.append(mapped_snapshots(tmp_path)),
    )

    assert found == [[]] * 3


def test_a_run_that_begins_anew_leaves_no_older_snapshot_to_go_on_from(tmp_path):
    with pytest.raises(KilledError):
        fit_neurovae(
            tiny(), trials(), tmp_path, on_step=killer(3), snapshot_every_s=0.0
        )
    with pytest.raises(KilledError):
        fit_neurovae(tiny(), trials(), tmp_path, on_step=killer(1), resume=False)
    steps = []

    fit_neurovae(tiny(), trials(), tmp_path, on_step=lambda p: steps.append(p.step))

    assert steps[0] == 1


def test_another_runs_snapshot_is_refused_and_can_be_replaced(vae, tmp_path):
    fit_neurovae(tiny(), trials(), tmp_path)

    with pytest.raises(CheckpointError, match=r"trials: expected \w+, found \w+\. "):
        fit_neurovae(tiny(), trials(seed=1), tmp_path)
    fit_neurovae(tiny(), trials(), tmp_path, resume=False)

    assert same(vae, tmp_path)


def test_the_flow_holds_averaged_weights_and_raw_ones_only_to_resume(vae, tmp_path):
    fit_flow(tiny(), trials(), vae, tmp_path)

    weights = load_file(tmp_path / "weights.safetensors")
    snapshot = load_file(tmp_path / "snapshot-8.safetensors")
    raw = {k: snapshot[f"model.{k}"] for k in weights}
    assert all(torch.equal(weights[k], snapshot[f"average.{k}"]) for k in weights)
    assert not all(torch.equal(weights[k], raw[k]) for k in weights)


def test_progress_and_history_say_what_happened(tmp_path):
    seen = []
    fit_neurovae(tiny(), trials(), tmp_path, on_step=seen.append, clock=ticking())

    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [p.step for p in seen] == [1, 2, 3, 4, 5, 6]
    assert [p.seconds_left for p in seen] == [5, 4, 3, 2, 1, 0]
    assert [float(r["loss"]) for r in rows] == [p.loss for p in seen]
    assert float(rows[0]["mse"]) == seen[0].terms["mse"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_training_leaves_the_callers_random_state_alone(tmp_path):
    before = torch.get_rng_state()

    fit_neurovae(tiny(), trials(), tmp_path)

    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_fit_is_refused_before_the_first_step(vae, tmp_path):
    with pytest.raises(ConfigError, match="batch: expected at most the 4 trials"):
        fit_neurovae(tiny(), trials(n=4), tmp_path)
    with pytest.raises(TensorMismatchError, match=r"trials\.voxels: expected 38"):
        fit_neurovae(config_from_preset("tiny", voxels=38), trials(), tmp_path)
    with pytest.raises(ConfigError, match="expected another folder"):
        fit_flow(tiny(), trials(), vae, vae)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (
            "voxels",
            lambda a: a.astype(np.float64),
            "float32 with 2 axes, found float64",
        ),
        ("image", lambda a: a[:-1], "one row per trial, 24, found 23"),
        ("image", lambda a: a + 1, "rows of latents in [0, 8), found 8 at trial 7"),
        ("latents", lambda a: a / (a != a[1, 2, 3]), "finite values, found another at"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_damaged_trials_are_named(field, change, message):
    whole = trials()
    arrays = {f: getattr(whole, f) for f in ("voxels", "image", "latents")}
    arrays[field] = change(arrays[field])

    with pytest.raises(TensorMismatchError) as caught:
        TrialSet(**arrays)

    assert str(caught.value).startswith(f"trials.{field}: expected {message}")


def test_an_epoch_shows_every_trial_once_and_the_next_in_another_order():
    order = BatchOrder(trials=24, batch=8, seed=-3)

    first = np.concatenate([order.at(i) for i in range(3)])
    second = np.concatenate([order.at(i) for i in range(3, 6)])

    assert sorted(first) == sorted(second) == list(range(24))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, epoch_order(24, -3, 0))


def test_dropout_takes_a_share_between_none_and_the_limit():
    training = VAETraining(voxel_dropout=0.4)
    voxels = torch.ones(400, 2000)

    shown = augment(voxels, training, torch.Generator().manual_seed(0))

    share = (shown == 0).float().mean(1)
    # Shares are uniform in [0, 0.4]; a trial's own count adds at most 5 * 0.011.
    assert float(share.max()) < 0.4 + 0.055
    assert float(share.min()) < 0.02
    assert abs(float(share.mean()) - 0.2) < 5 * 0.4 / np.sqrt(12 * 400)


def test_noise_has_the_deviation_that_the_configuration_says():
    training = VAETraining(voxel_noise=0.5)
    voxels = torch.zeros(100, 1000)

    shown = augment(voxels, training, torch.Generator().manual_seed(0))

    assert abs(float(shown.std()) - 0.5) < 5 * 0.5 / np.sqrt(200_000)
    assert not voxels.any()


@pytest.mark.parametrize("is_centred", [True, False])
def test_the_mean_of_the_images_counts_only_where_latents_are_not_centred(
    is_centred, tmp_path
):
    plain, losses = trials(), []
    # Numbers that float32 adds without rounding much.
    shift = np.full((8, 12), 4.0, dtype=np.float32)
    config = msgspec.structs.replace(tiny(), centre_latents=is_centred)
    for name, latents in (("a", plain.latents), ("b", plain.latents + shift)):
        heard, out = [], tmp_path / name
        data = dataclasses.replace(plain, latents=latents)
        vae = fit_neurovae(config, data, out / "vae", on_step=heard.append)
        fit_flow(config, data, vae, out / "flow", on_step=heard.append)
        # Later steps magnify rounding; the first of each stage does not.
        losses += [[heard[0].loss], [p.loss for p in heard if p.stage == "flow"][:1]]

    vae_a, flow_a, vae_b, flow_b = np.ravel(losses)
    assert bool(abs(vae_a / vae_b - 1) < 1e-5) is is_centred
    assert bool(abs(flow_a / flow_b - 1) < 0.02) is is_centred


def test_centred_trials_have_latents_of_mean_zero_over_the_images_that_were_shown():
    given = trials()
    unseen = np.concatenate([given.latents, np.full((1, 8, 12), 100, np.float32)])
    given = dataclasses.replace(given, latents=unseen)

    centred = given.centred()

    shown = centred.z_v(np.arange(8))
    np.testing.assert_allclose(shown.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(
        shown + given.latent_mean(), given.latents[:8], atol=1e-5
    )
    assert centred.voxels is given.voxels
    assert centred.latents is given.latents
