"""Peers: each learns what is easy, finds nothing where there is nothing, is counted."""

import sys

import numpy as np
import pytest
import torch

from runtime.errors import BackendError, RecordingError, TensorMismatchError, UsageError
from runtime.patch_dct import PatchDct
from training.config import (
    FlowTraining,
    ModelConfig,
    NeuroVAEConfig,
    SiTConfig,
    VAETraining,
)
from training.judge import image_folds
from training.losses import SoftClip
from training.neurovae import NeuroVAE
from training.peers import cortexflow, lda
from training.peers.contract import Lesson, Pictures
from training.peers.cortexflow import CortexFlow, CortexFlowSettings
from training.peers.exam import Exam, Questions, ask, retrieve, without_signal
from training.peers.lda import Lda
from training.peers.mlp import Mixture, Mlp, MlpSettings, bimixco, draw_mixture
from training.peers.ours import FittedOurs, Ours
from training.peers.ridge import CategoryRidge, LatentRidge
from training.peers.sheet import Unit, read_sheet, sheet, write_sheet
from training.sit import SiT
from training.trials import TrialSet

BACKBONE = PatchDct(image_size=8, patch=2)
CATEGORIES, TRAINED, ASKED, VOXELS, REPEATS = 4, 80, 20, 30, 3
OURS = Ours(
    ModelConfig(
        preset="small",
        vae=NeuroVAEConfig(
            voxels=VOXELS,
            tokens=4,
            width=48,
            hidden=32,
            channels=4,
            channel_multipliers=(1,),
            blocks=1,
            downsamplings=0,
            groups=2,
        ),
        flow=SiTConfig(tokens=4, width=48, depth=1, heads=2, frequencies=16),
        centre_latents=True,
        vae_training=VAETraining(
            epochs=40,
            batch=32,
            learning_rate=5e-3,
            kl_weight=0.01,
            clip_weight=100.0,
            cycle_weight=100.0,
            voxel_noise=0.3,
            first_layer="ridge",
        ),
        flow_training=FlowTraining(
            steps=200, batch=32, learning_rate=5e-3, ema_decay=0.95
        ),
    )
)
MLP = Mlp(
    MlpSettings(
        hidden=64, blocks=1, input_dropout=0.1, epochs=30, batch=32, learning_rate=3e-3
    )
)
TINY = CortexFlow(
    CortexFlowSettings(
        image_size=8, hidden_dim=32, depth=1, num_heads=2, epochs=1, num_steps=2
    )
)
PEERS = {
    "ridge": LatentRidge(),
    "ridge of categories": CategoryRidge(),
    "LDA": Lda(),
    "MLP": MLP,
    "ours": OURS,
}


def exam(seed=0, noise=0.5):
    """Pictures of four kinds, and voxels that are a noisy linear map of them."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(TRAINED + 2 * ASKED, dtype=np.int64) % CATEGORIES
    kind_of = rng.uniform(40, 215, (CATEGORIES, 8, 8, 3))
    own = rng.normal(0, 25, (len(kinds), 4, 4, 3)).repeat(2, axis=1).repeat(2, axis=2)
    pixels = np.clip(kind_of[kinds] + own, 0, 255).astype(np.uint8)
    latents = np.stack([BACKBONE.tokens_from_image(image) for image in pixels])
    weights = rng.standard_normal((latents[0].size, VOXELS)) / 2

    def voxels(image):
        seen = latents[image].reshape(len(image), -1) @ weights
        return (seen + noise * rng.standard_normal(seen.shape)).astype(np.float32)

    image = np.tile(np.arange(TRAINED, dtype=np.int64), REPEATS)
    asked = np.arange(TRAINED, TRAINED + ASKED, dtype=np.int64)
    shown = np.concatenate([rng.permutation(asked) for _ in range(REPEATS)])
    lesson = Lesson(
        TrialSet(voxels(image), image, latents),
        kinds,
        image_folds(image),
        Pictures(pixels, BACKBONE),
    )
    questions = Questions(
        voxels(shown),
        shown,
        np.repeat(np.arange(REPEATS, dtype=np.int64), ASKED),
        np.arange(len(shown), dtype=np.int64),
    )
    return Exam(lesson, questions, np.arange(TRAINED, len(kinds), dtype=np.int64))


def shuffled(made, seed=0):
    trials = made.lesson.trials
    image = np.random.default_rng(seed).permutation(trials.image)
    lesson = Lesson(
        TrialSet(trials.voxels, image, trials.latents),
        made.lesson.categories,
        image_folds(image),
        made.lesson.pictures,
    )
    return Exam(lesson, made.questions, made.gallery)


def shares(peer, made):
    """Share of pictures (None of namers) and of categories named rightly."""
    torch.set_num_threads(1)
    said = ask(peer.fit(made.lesson), made, made.questions.features)
    shown = made.questions.image
    right = (said.category == made.lesson.categories[shown]).mean()
    return None if said.picture is None else (said.picture == shown).mean(), right


SLOW = ("MLP", "ours")
EACH = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in PEERS]
# Of 40 pictures; chance is .025. Ours is as small here as a test must be quick.
LEAST = {"ridge": 0.4, "MLP": 0.4, "ours": 0.12}


@pytest.mark.parametrize("name", EACH)
def test_each_peer_learns_what_is_easy(name):
    picture, category = shares(PEERS[name], exam())

    assert category > 0.8  # chance .25
    assert (picture is None) == (name not in LEAST)
    if picture is not None:
        assert picture > LEAST[name]


def above(share, chance, n):
    """Five standard deviations of n independent guesses; answers are hardly that."""
    return share > chance + 5 * np.sqrt(chance * (1 - chance) / n)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("control", ["shuffled", "no signal"])
def test_no_peer_finds_what_is_not_there(name, control):
    made = exam()
    made = (
        shuffled(made)
        if control == "shuffled"
        else without_signal(made, np.random.default_rng(0))
    )

    picture, category = shares(PEERS[name], made)

    # Repeats of a picture get the same wrong answer: count pictures, not trials.
    assert not above(category, 1 / CATEGORIES, ASKED)
    assert picture is None or not above(picture, 1 / (2 * ASKED), ASKED)


@pytest.mark.parametrize("peer", [Lda(), CategoryRidge()])
def test_what_names_categories_refuses_to_retrieve(peer):
    made = exam()
    fitted = peer.fit(made.lesson)

    with pytest.raises(UsageError, match="expected a question about categories"):
        retrieve(fitted, made, made.questions.features)
    assert ask(fitted, made, made.questions.features).picture is None


def test_linear_peers_count_their_weights():
    made = exam()
    targets = made.lesson.trials.latents[0].size

    assert LatentRidge().fit(made.lesson).parameters == (VOXELS + 1) * targets
    assert CategoryRidge().fit(made.lesson).parameters == (VOXELS + 1) * CATEGORIES
    assert Lda().fit(made.lesson).parameters == (VOXELS + 1) * CATEGORIES


def test_ours_is_counted_as_one_encoding_and_the_steps_of_the_flow(monkeypatch):
    made, calls = exam(), []
    vae, field = NeuroVAE(OURS.config.vae), SiT(OURS.config.flow)
    fitted = FittedOurs(OURS.config, vae, field, made.lesson.trials.latent_mean())
    for part, name in ((vae, "encode"), (field, "velocity")):
        method = getattr(part, name)

        def counting(*given, method=method):
            calls.append(1)
            return method(*given)

        monkeypatch.setattr(part, name, counting)

    z_v = fitted.decode(made.questions.features[:1])

    assert z_v.shape == (1, 4, 48)
    assert len(calls) == fitted.evaluations == 3
    assert fitted.parameters == sum(
        tensor.numel() for part in (vae, field) for tensor in part.parameters()
    )


def test_a_peer_is_the_same_each_time_and_leaves_the_generator_alone():
    made = exam()
    quick = Mlp(MlpSettings(hidden=16, blocks=1, epochs=2, batch=32))
    before = torch.random.get_rng_state()

    first, second = (quick.fit(made.lesson) for _ in range(2))

    asked = made.questions.features
    np.testing.assert_array_equal(first.decode(asked), second.decode(asked))
    assert torch.equal(before, torch.random.get_rng_state())


def test_steps_are_counted_to_their_end():
    seen = []
    quick = Mlp(MlpSettings(hidden=16, blocks=1, epochs=2, batch=64))

    quick.fit(exam().lesson, lambda done, total: seen.append((done, total)))

    steps = 2 * (TRAINED * REPEATS // 64)
    assert seen == [(i, steps) for i in range(1, steps + 1)]


def test_a_mixture_of_itself_alone_is_the_plain_contrast():
    generator = torch.Generator().manual_seed(0)
    said, shown = torch.randn(2, 6, 5, generator=generator)
    alone = Mixture(torch.arange(6), torch.ones(6))
    q = torch.nn.functional.normalize(shown, dim=-1)
    p = torch.nn.functional.normalize(said, dim=-1)
    wanted = torch.arange(6)

    found = bimixco(said, shown, wanted, alone, 0.1)

    both = [
        torch.nn.functional.cross_entropy(logits / 0.1, wanted)
        for logits in (p @ q.T, q @ p.T)
    ]
    torch.testing.assert_close(found, sum(both) / 2)


def test_trials_of_one_picture_are_not_each_others_negatives():
    generator = torch.Generator().manual_seed(1)
    shown = torch.nn.functional.normalize(
        torch.randn(2, 5, generator=generator), dim=-1
    )
    image = torch.tensor([0, 0, 1, 1])
    alone = Mixture(torch.arange(4), torch.ones(4))

    found = bimixco(shown[image], shown[image], image, alone, 1e-3)

    # Perfect answers lose only the bit that says which of the two repeats it was.
    torch.testing.assert_close(found, torch.log(torch.tensor(2.0)), atol=1e-3, rtol=0)
    same = SoftClip(shown[image], 1e-3)(shown[image])
    torch.testing.assert_close(found, same, atol=1e-3, rtol=0)


def test_half_of_a_batch_stays_alone_and_weights_are_shares():
    mixture = draw_mixture(4000, torch.Generator().manual_seed(0))

    assert 0.45 < (mixture.share == 1).float().mean() < 0.55
    assert mixture.share.min() >= 0
    assert mixture.partner.sort().values.tolist() == list(range(4000))
    rows = torch.arange(4000.0)[:, None]
    ends = torch.stack([rows, rows[mixture.partner]]).squeeze(-1)
    mixed = mixture.of(rows).squeeze(-1)
    # A rounding of 4,000 in float32.
    assert (mixed >= ends.min(0).values - 1e-3).all()
    assert (mixed <= ends.max(0).values + 1e-3).all()


def test_no_signal_keeps_mean_and_covariance_and_nothing_else():
    made = exam()
    # Many questions, so that the covariance of the noise can be seen.
    wide = Questions(
        np.zeros((4000, VOXELS), np.float32),
        np.full(4000, TRAINED, dtype=np.int64),
        np.zeros(4000, dtype=np.int64),
        np.arange(4000, dtype=np.int64),
    )
    silent = without_signal(
        Exam(made.lesson, wide, made.gallery), np.random.default_rng(0)
    )

    learned, noise = made.lesson.trials.voxels, silent.questions.features
    wanted = np.cov(learned.T)
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    # A covariance of 4,000 draws is within 5 / sqrt(4,000) of its scale.
    assert np.abs(np.cov(noise.T) - wanted).max() < (0.08 * scale).max()
    assert np.abs(noise.mean(0) - learned.mean(0)).max() < 0.08 * learned.std(0).max()
    assert not np.isclose(silent.lesson.trials.voxels, learned).any()
    np.testing.assert_array_equal(silent.lesson.trials.image, made.lesson.trials.image)


def test_what_came_next_is_of_the_next_stretch_in_the_same_run():
    questions = Questions(
        np.zeros((7, 2), np.float32),
        np.array([4, 4, 5, 6, 6, 7, 8]),
        np.array([0, 0, 0, 1, 1, 1, 1]),
        np.array([3, 3, 5, 6, 6, 9, 11]),
    )

    assert questions.next_image().tolist() == [5, 5, -1, 7, 7, 8, -1]


def test_a_lesson_refuses_lengths_that_do_not_fit():
    lesson = exam().lesson

    with pytest.raises(TensorMismatchError, match=r"lesson\.groups"):
        Lesson(lesson.trials, lesson.categories, lesson.groups[:-1])
    with pytest.raises(TensorMismatchError, match=r"lesson\.categories"):
        Lesson(lesson.trials, lesson.categories[:-1], lesson.groups)


def test_a_sheet_comes_back_as_it_was_written(tmp_path):
    made = exam()
    unit = Unit(kind="simulated", subject=3, peer="ridge of categories")
    written = sheet(
        unit, "recipe", "machine", [(made, CategoryRidge().fit(made.lesson), 0.5)]
    )

    write_sheet(unit.place(tmp_path), written)

    assert read_sheet(unit.place(tmp_path)) == written
    assert written.picture is None
    assert written.mean_picture is None
    assert len(written.mean_category) == ASKED
    unit.place(tmp_path).write_bytes(b"{")
    with pytest.raises(RecordingError, match="expected a peer's answers"):
        read_sheet(unit.place(tmp_path))


@pytest.mark.parametrize(
    ("module", "missing"),
    [(cortexflow, "cortexflow"), (lda, "sklearn.discriminant_analysis")],
)
def test_a_missing_package_is_named(monkeypatch, module, missing):
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(BackendError, match=r"Install neuroflow-rt\[dev\]"):
        module._library()


def test_who_draws_refuses_a_lesson_without_pictures():
    lesson = exam().lesson
    bare = Lesson(lesson.trials, lesson.categories, lesson.groups)

    with pytest.raises(UsageError, match="expected pictures to draw"):
        TINY.fit(bare)


@pytest.fixture(scope="module")
def drawing():
    pytest.importorskip(
        "cortexflow", reason="cortexflowx is not installed: its adapter is not tested"
    )
    torch.set_num_threads(1)
    made, seen = exam(), []
    before = torch.random.get_rng_state()
    fitted = TINY.fit(made.lesson, lambda done, total: seen.append((done, total)))
    assert torch.equal(before, torch.random.get_rng_state())
    return made, fitted, seen


def test_cortexflowx_draws_a_picture_for_each_trial_in_the_gallerys_size(drawing):
    made, fitted, _ = drawing

    drawn = fitted.draw(made.questions.features)

    assert drawn.shape == (len(made.questions.image), 8, 8, 3)
    assert drawn.dtype == np.uint8
    z_v = fitted.decode(made.questions.features)
    np.testing.assert_array_equal(z_v[0], BACKBONE.tokens_from_image(drawn[0]))
    said = ask(fitted, made, made.questions.features)
    assert set(said.picture) <= set(made.gallery)


def test_cortexflowx_trains_its_vae_on_pictures_and_the_rest_on_trials(drawing):
    _, _, seen = drawing

    # Its batches of 16: 80 pictures once, then 240 trials once.
    steps = TRAINED // 16 + TRAINED * REPEATS // 16
    assert seen == [(i, steps) for i in range(1, steps + 1)]


def test_cortexflowx_is_counted_with_guidance_encoder_and_vae(drawing):
    _, fitted, _ = drawing
    passes = []
    handles = [
        part.register_forward_hook(lambda *_: passes.append(1))
        for part in (
            fitted._model.dit,
            fitted._model.brain_encoder,
            fitted._model.vae.decoder,
        )
    ]
    fitted.draw(np.zeros((1, VOXELS), np.float32))
    for handle in handles:
        handle.remove()

    assert len(passes) == fitted.evaluations == 2 * TINY.settings.num_steps + 2
    assert fitted.parameters == sum(t.numel() for t in fitted._model.parameters())
