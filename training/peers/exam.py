"""The same lesson and the same questions for every peer, of a participant or a fold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from runtime.errors import UsageError
from runtime.estimator import VolumeEstimator
from runtime.heads import Retrieval
from training.dataset import Dataset
from training.evaluate import SHUFFLE_SEED
from training.haxby import (
    CATEGORIES,
    LabelledRuns,
    category_codes,
    category_trials,
    category_whitening,
    causal_features,
)
from training.judge import image_folds, repeat_means
from training.peers.contract import (
    CategoryNamer,
    Features,
    FittedPeer,
    LatentDecoder,
    Latents,
    Lesson,
    Pictures,
    Rows,
)
from training.resample import blocks_of, permute_blocks


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """Trials that nobody learned from, in order of time within each run."""

    features: Features
    image: Rows
    """What was shown: a row of the lesson's latents."""
    run: Rows
    stretch: Rows
    """Trials that belong together in time: a block of volumes, else each its own."""

    def repeats(self) -> tuple[Features, Rows]:
        """Return the mean over the trials of each picture, and the pictures."""
        return repeat_means(self.features, self.image)

    def next_image(self) -> Rows:
        """Return what was shown in the next stretch of the run; -1 after the last."""
        following = np.full(len(self.image), -1, dtype=np.int64)
        for run in np.unique(self.run):
            here = np.flatnonzero(self.run == run)
            stretches, first = np.unique(self.stretch[here], return_index=True)
            place = np.searchsorted(stretches, self.stretch[here])
            shown = np.append(self.image[here[first]], -1)
            following[here] = shown[place + 1]
        return following


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """A lesson, the questions after it, and the pictures that may be an answer."""

    lesson: Lesson
    questions: Questions
    gallery: Rows
    """Rows of the lesson's latents."""

    def nearest(self, decoded: Latents) -> Rows:
        """Return the picture of the gallery nearest to each latent."""
        latents, names = self.lesson.trials.latents, [str(i) for i in self.gallery]
        search = Retrieval(
            latents[self.gallery],
            names,
            names,
            mean=self.lesson.trials.latent_mean(),
            temperature=1.0,
        )
        best = [int(np.argmax(search.cosines(z_v))) for z_v in decoded]
        return self.gallery[np.array(best, dtype=np.int64)]


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a peer answered to some trials."""

    picture: Rows | None
    """None of a peer that knows no pictures."""
    category: Rows


def retrieve(fitted: FittedPeer, exam: Exam, features: Features) -> Rows:
    """Ask which picture of the gallery was shown.

    Raises:
        UsageError: The peer names categories alone.
    """
    if not isinstance(fitted, LatentDecoder):
        raise UsageError(
            f"{type(fitted).__name__}: expected a question about categories, "
            "found one about pictures"
        )
    return exam.nearest(fitted.decode(features))


def ask(fitted: FittedPeer, exam: Exam, features: Features) -> Said:
    """Ask all that a peer can answer; a picture's category goes with the picture."""
    if isinstance(fitted, CategoryNamer):
        return Said(None, fitted.name(features))
    picture = retrieve(fitted, exam, features)
    return Said(picture, exam.lesson.categories[picture])


def participant_exam(dataset: Dataset) -> Exam:
    """Return the exam of a participant with pictures: its test trials and gallery."""
    stimuli, test = dataset.stimuli, dataset.betas.select("test")
    trials = dataset.split("train")
    names = np.unique(stimuli.labels, return_inverse=True)[1].astype(np.int64)
    lesson = Lesson(
        trials,
        names,
        image_folds(trials.image),
        Pictures(stimuli.pixels, dataset.backbone),
    )
    questions = Questions(
        dataset.space.to_model(test.betas),
        dataset.rows(test),
        test.run,
        np.arange(len(test), dtype=np.int64),
    )
    return Exam(lesson, questions, np.array(stimuli.gallery_rows(), dtype=np.int64))


def fold_exam(
    data: LabelledRuns,
    held: int,
    estimator: VolumeEstimator,
    *,
    shape: tuple[int, int],
    is_shuffled: bool,
) -> Exam:
    """Return the exam of one run of a labelled recording, learned from the others.

    Args:
        data: The recording; rest is neither learned from nor asked about.
        held: Position of the run.
        estimator: How volumes become causal features, and the noise's shrinkage.
        shape: Tokens and width of the categories' codes.
        is_shuffled: Exchange the categories of the training runs' blocks.
    """
    test = data.runs == held
    runs, labels = data.runs[~test], data.labels[~test]
    if is_shuffled:
        rng = np.random.default_rng([SHUFFLE_SEED, held])
        labels = permute_blocks(labels, runs, rng)
    others = [run for run in range(len(data.volumes)) if run != held]
    causal, _ = causal_features(data, others, estimator)
    shrinkage = estimator.noise_shrinkage
    white = category_whitening(causal[~test], labels, shrinkage).whiten(causal)
    codes = category_codes(*shape)
    lesson = Lesson(
        category_trials(white[~test], labels, codes),
        np.arange(CATEGORIES, dtype=np.int64),
        runs[labels > 0],
    )
    asked = test & (data.labels > 0)
    questions = Questions(
        white[asked],
        data.labels[asked] - 1,
        data.runs[asked],
        blocks_of(data.labels, data.runs)[asked],
    )
    return Exam(lesson, questions, np.arange(CATEGORIES, dtype=np.int64))


def shuffled_dataset(dataset: Dataset, seed: int) -> Dataset:
    """Return the data set with the pictures of its training trials permuted."""
    betas = dataset.betas
    train = [i for i, event in enumerate(betas.events) if event.split == "train"]
    order = np.random.default_rng(seed).permutation(train)
    events = list(betas.events)
    for i, j in zip(train, order, strict=True):
        events[i] = replace(betas.events[i], stimulus_id=betas.events[j].stimulus_id)
    return replace(dataset, betas=replace(betas, events=tuple(events)))


def without_signal(exam: Exam, rng: np.random.Generator) -> Exam:
    """Return the exam with noise for features, in lesson and questions alike.

    Gaussian, with the mean and the covariance of the lesson's features: what such a
    recording would give of somebody whom no picture moves.
    """
    trials, questions = exam.lesson.trials, exam.questions
    mean = trials.voxels.mean(axis=0)
    spread = (trials.voxels - mean) / np.sqrt(len(trials))

    def noise(count: int) -> Float32[np.ndarray, "count voxels"]:
        drawn = rng.standard_normal((count, len(trials))) @ spread + mean
        return np.asarray(drawn, dtype=np.float32)

    lesson = replace(exam.lesson, trials=replace(trials, voxels=noise(len(trials))))
    asked = replace(questions, features=noise(len(questions.image)))
    return replace(exam, lesson=lesson, questions=asked)


def joined(parts: Sequence[Rows]) -> list[int]:
    """Return rows one after another, as a file holds them."""
    return [int(row) for part in parts for row in part]
