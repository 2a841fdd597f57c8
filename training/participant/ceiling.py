"""Ceilings: the most that any decoder or encoder could reach on given betas.

Decoding: the maximum-a-posteriori image of a gallery under the participant's own
generator, seen through the estimator that made the betas. Mean patterns, the shape
of trial-to-trial variability and of noise, and the lapse rate are taken from the
truth; what the estimator does to them (one slope per voxel, the covariance) is
measured on training betas, whose covariance is shrunk towards the true structure
(Ledoit and Wolf 2004, in coordinates where that structure is the identity).
Encoding: the square root of the noise ceiling (Allen et al. 2022).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import linalg, optimize, special

from runtime.errors import TensorMismatchError
from training.metrics.voxels import noise_ceiling as noise_ceiling

Betas = Float64[np.ndarray, "trials voxels"]
Patterns = Float64[np.ndarray, "images voxels"]
Factor = Float64[np.ndarray, "rank voxels"]
Images = Int64[np.ndarray, " trials"]


@dataclass(frozen=True, slots=True)
class Lapses:
    """Distribution of a trial's gain: attended about 1, or lapsed near 0."""

    probability: float
    gain_high: float
    attended_sd: float

    def nodes(self) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Return gains and their probabilities: Gauss-Hermite, and thirds."""
        step = np.sqrt(3) * self.attended_sd
        lapsed = self.gain_high * np.array([1, 3, 5]) / 6
        gains = np.concatenate([[1 - step, 1, 1 + step], lapsed])
        attended = (1 - self.probability) * np.array([1, 4, 1]) / 6
        return gains, np.concatenate([attended, np.full(3, self.probability / 3)])


@dataclass(frozen=True, slots=True)
class BetaModel:
    """What an estimator makes of true patterns, in voxels.

    Attributes:
        mean_pattern: Mean true pattern of the training trials.
        mean_beta: Mean beta of the training trials.
        slope: Beta units per percent of true pattern, about 1.
        covariance: Of betas about what the slope predicts.
        shrinkage: Weight given to the true structure, 0 to 1.
    """

    mean_pattern: Float64[np.ndarray, " voxels"]
    mean_beta: Float64[np.ndarray, " voxels"]
    slope: Float64[np.ndarray, " voxels"]
    covariance: Float64[np.ndarray, "voxels voxels"]
    shrinkage: float

    def predict(self, patterns: Patterns) -> Patterns:
        """Return the expected betas of images at the mean gain."""
        return np.asarray(self.mean_beta + self.slope * (patterns - self.mean_pattern))


@dataclass(frozen=True, slots=True)
class DecodingCeiling:
    """Whether the best guess was right.

    Attributes:
        single: For each trial.
        joint: For each shown image, all its trials judged together; a sum of log
            likelihoods, never worse than judging their average.
        images: The gallery rows that `joint` belongs to.
    """

    single: Bool[np.ndarray, " trials"]
    joint: Bool[np.ndarray, " shown"]
    images: Int64[np.ndarray, " shown"]


def decoding_ceiling(
    betas: Betas,
    shown: Images,
    gallery_patterns: Patterns,
    model: BetaModel,
    lapses: Lapses,
) -> DecodingCeiling:
    """Decode test betas by maximum a posteriori, all gallery images equally likely.

    Args:
        betas: Test betas, of the estimator that `model` was fitted on.
        shown: Gallery row that each trial showed.
        gallery_patterns: True mean patterns of the gallery.
        model: From `fit_beta_model`.
        lapses: From the table.
    """
    log_likelihood = gallery_log_likelihood(betas, gallery_patterns, model, lapses)
    images = np.unique(shown)
    joint = np.stack([log_likelihood[shown == k].sum(axis=0) for k in images])
    return DecodingCeiling(
        single=log_likelihood.argmax(axis=1) == shown,
        joint=joint.argmax(axis=1) == images,
        images=images,
    )


def gallery_log_likelihood(
    betas: Betas, gallery_patterns: Patterns, model: BetaModel, lapses: Lapses
) -> Float64[np.ndarray, "trials images"]:
    """Return the log likelihood of each gallery image, up to a constant per trial.

    The covariance of attended trials serves in lapses too, where it is too wide; such
    trials tell next to nothing either way.
    """
    gains, probabilities = lapses.nodes()
    full_gain = model.predict(gallery_patterns) / (gains @ probabilities)
    factor = linalg.cholesky(model.covariance, lower=True)
    beta = linalg.solve_triangular(factor, betas.T, lower=True)
    image = linalg.solve_triangular(factor, full_gain.T, lower=True)
    inner, norm = beta.T @ image, (image**2).sum(axis=0)
    terms = [
        np.log(probability) + gain * inner - gain**2 * norm / 2
        for gain, probability in zip(gains, probabilities, strict=True)
    ]
    return np.asarray(special.logsumexp(np.stack(terms), axis=0))


def fit_beta_model(
    betas: Betas, patterns: Betas, structure: tuple[Factor, ...]
) -> BetaModel:
    """Measure what an estimator makes of true patterns.

    Args:
        betas: Training betas.
        patterns: True mean pattern of the image of each training trial.
        structure: True covariance factors (rows span), each of unknown strength at
            the level of betas: trial-to-trial patterns first, as they pass through
            the slope, then noise components.

    Raises:
        TensorMismatchError: Betas and patterns do not pair up.
    """
    if betas.shape != patterns.shape:
        raise TensorMismatchError(
            "patterns", expected=f"{betas.shape}", found=f"{patterns.shape}"
        )
    mean_pattern, mean_beta = patterns.mean(axis=0), betas.mean(axis=0)
    x, y = patterns - mean_pattern, betas - mean_beta
    slope = _shrunk_slopes(x, y)
    residual = y - slope * x
    factors = [structure[0] * slope, *structure[1:]] if structure else []
    target = _structured_covariance(residual, factors)
    covariance, shrinkage = shrink_covariance(residual, target)
    return BetaModel(mean_pattern, mean_beta, slope, covariance, shrinkage)


def shrink_covariance(
    samples: Betas, target: Float64[np.ndarray, "voxels voxels"]
) -> tuple[Float64[np.ndarray, "voxels voxels"], float]:
    """Shrink the covariance of mean-zero samples towards a target.

    Ledoit and Wolf (2004), lemma 3.2 to 3.4, after whitening by the target.

    Returns:
        The covariance, and the weight of the target in [0, 1].
    """
    n, n_voxels = samples.shape
    factor = linalg.cholesky(target, lower=True)
    white = linalg.solve_triangular(factor, samples.T, lower=True).T
    sample = white.T @ white / n
    distance = ((sample - np.eye(n_voxels)) ** 2).sum()
    scatter = ((white**2).sum(axis=1) ** 2).sum() / n - (sample**2).sum()
    weight = float(np.clip(scatter / n / max(distance, 1e-12), 0.0, 1.0))
    empirical = samples.T @ samples / n
    return weight * target + (1 - weight) * empirical, weight


def encoding_ceiling(
    betas: Betas, shown: Images, repeats: int
) -> Float64[np.ndarray, " voxels"]:
    """Return the highest correlation that a prediction can reach: sqrt(NC)."""
    return np.asarray(np.sqrt(noise_ceiling(betas, shown, repeats)))


def _shrunk_slopes(x: Betas, y: Betas) -> Float64[np.ndarray, " voxels"]:
    """Regress voxel by voxel, then shrink towards the mean slope (empirical Bayes)."""
    energy = (x**2).sum(axis=0)
    tuned = energy > 1e-9 * energy.max()
    raw = np.where(tuned, (x * y).sum(axis=0) / np.where(tuned, energy, 1.0), 0.0)
    error = ((y - raw * x) ** 2).mean(axis=0) / np.where(tuned, energy, 1.0)
    precision = tuned / np.maximum(error, 1e-12)
    mean = (precision * raw).sum() / precision.sum()
    spread = max(float(((raw - mean) ** 2 - error)[tuned].mean()), 1e-6)
    return np.asarray(
        np.where(tuned, mean + (raw - mean) * spread / (spread + error), 0)
    )


def _structured_covariance(
    residual: Betas, factors: list[Factor]
) -> Float64[np.ndarray, "voxels voxels"]:
    """Fit factors' strengths to the off-diagonal, and keep the diagonal."""
    sample = residual.T @ residual / len(residual)
    diagonal = np.diag(sample)
    if not factors:
        return np.diag(diagonal)
    bases = [factor.T @ factor for factor in factors]
    upper = np.triu_indices(len(sample), 1)
    # Divided by the voxels' deviations, so that noisy voxels do not decide alone.
    weight = 1 / np.sqrt(diagonal[upper[0]] * diagonal[upper[1]])
    design = np.stack([basis[upper] * weight for basis in bases], axis=1)
    gram, moment = design.T @ design, design.T @ (sample[upper] * weight)
    strength, _ = optimize.nnls(gram, moment)
    structured = sum(s * b for s, b in zip(strength, bases, strict=True))
    total = np.asarray(structured, dtype=np.float64)
    own = np.maximum(diagonal - np.diag(total), 0.05 * diagonal)
    return np.asarray(total + np.diag(own))
