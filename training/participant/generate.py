"""Write a simulated participant as a BIDS folder, whole or not at all.

Every part draws from its own stream of (seed, part), so that one more trial in one
run changes no other run's noise.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16

from runtime.errors import UsageError
from training.participant import design, motion, noise, response, tuning, write
from training.participant.brain import Brain, build_brain
from training.participant.folder import ParticipantFolder, open_participant
from training.participant.parameters import ParticipantParameters

Progress = Callable[[int, int], None]
_STREAMS = ("brain", "tuning", "response", "noise", "design", "run")


@dataclass(frozen=True, slots=True)
class _Participant:
    """All that stays the same over runs."""

    seed: int
    table: ParticipantParameters
    brain: Brain
    noise: noise.NoiseModel
    response: response.ResponseModel
    runs: list[design.Run]
    stimuli: write.Stimuli


@dataclass(frozen=True, slots=True)
class _SimulatedRun:
    """One run's volumes, and what a scanner would not know."""

    volumes: Int16[np.ndarray, "x y z times"]
    draw: response.TrialDraw
    poses: motion.Poses
    offset: Float32[np.ndarray, " head"]


def generate_participant(
    out: Path,
    parameters: ParticipantParameters,
    seed: int,
    progress: Progress | None = None,
) -> ParticipantFolder:
    """Simulate a participant and write the recording to a new folder.

    The folder appears under its name only when complete.

    Args:
        out: Folder to create; must not exist.
        parameters: The table.
        seed: Names the participant (``sub-sim{seed:03d}``) and decides every draw,
            the stimuli included.
        progress: Called with (runs done, runs in all) after every run.

    Raises:
        UsageError: `out` exists already, or `seed` is negative or above 999.
        ConfigError: The table is impossible.
    """
    if not 0 <= seed <= 999:
        raise UsageError(f"seed: expected 0 to 999, found {seed}")
    if out.exists():
        raise UsageError(f"{out}: expected a new folder, found it there. Remove it.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, _build(parameters, seed), progress)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_participant(out)


def _build(p: ParticipantParameters, seed: int) -> _Participant:
    brain = build_brain(p, _stream(seed, "brain"))
    noise_model = noise.build_noise(brain, p, _stream(seed, "noise"))
    stimuli = write.draw_stimuli(p, seed)
    tuned = tuning.response_patterns(
        stimuli.pictures, stimuli.factors, brain.roi, p, _stream(seed, "tuning")
    )
    scale = noise_model.scale[brain.decoding_voxels]
    model = response.build_response(
        tuned, scale, brain.roi, p, _stream(seed, "response")
    )
    runs = design.build_design(p, _stream(seed, "design"))
    return _Participant(seed, p, brain, noise_model, model, runs, stimuli)


def _stream(seed: int, part: str, number: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS.index(part), number])


def _write(folder: Path, s: _Participant, progress: Progress | None) -> None:
    subject = f"sub-sim{s.seed:03d}"
    write.write_dataset(folder, subject, "Simulated participant")
    write.write_stimuli(folder / "stimuli", s.stimuli)
    masks = folder / "derivatives" / "masks" / subject
    write.write_masks(masks, s.brain.labels, s.brain.head_mask, s.brain.affine)
    simulated: list[_SimulatedRun] = []
    for done, run in enumerate(s.runs, start=1):
        result = _simulate_run(s, run)
        volumes = result.volumes
        write.write_run(folder, subject, run, s.stimuli, volumes, s.brain.affine)
        # The volumes are on disk; only the truth is kept until the end.
        simulated.append(replace(result, volumes=volumes[..., :0].copy()))
        if progress is not None:
            progress(done, len(s.runs))
    arrays = {
        **write.response_truth(s.response, [r.draw for r in simulated]),
        **_noise_truth(s, simulated),
    }
    write.write_truth(folder / "derivatives" / "truth", arrays, s.table, s.seed)


def _noise_truth(
    s: _Participant, simulated: list[_SimulatedRun]
) -> dict[str, np.ndarray]:
    decoding = s.brain.decoding_voxels
    return {
        "noise_scale_percent": s.noise.scale[decoding],
        "noise_loadings": s.noise.loadings[:, decoding],
        "noise_ar_share": s.noise.ar_share[decoding],
        "run_offsets_percent": np.stack([r.offset[decoding] for r in simulated]),
        "poses": np.concatenate([r.poses for r in simulated]),
    }


def _simulate_run(s: _Participant, run: design.Run) -> _SimulatedRun:
    p, n = s.table, run.n_volumes
    rng = _stream(s.seed, "run", run.number)
    draw = response.draw_trials(run, s.response, p, rng)
    poses = motion.draw_poses(n, p, rng)
    percent = noise.residual_series(s.noise, n, p, rng)
    percent += noise.drift_series(s.noise, n, p, rng)
    offset = noise.run_offset(s.noise, p, rng)
    percent += offset
    percent[:, s.brain.decoding_voxels] += response.evoked_series(
        run, draw, s.response, p.tr_s
    )
    signal = motion.moved_anatomy(s.brain, poses, p.voxel_mm)
    signal *= 1 + percent / 100
    volumes = _background(s, n, rng)
    volumes[s.brain.head_mask] = np.clip(np.rint(signal), 0, 32767).T
    return _SimulatedRun(volumes, draw, poses, offset)


def _background(
    s: _Participant, n: int, rng: np.random.Generator
) -> Int16[np.ndarray, "x y z times"]:
    """Fill the grid with the magnitude of noise, as outside a head."""
    values = rng.standard_normal((*s.table.grid, n), dtype=np.float32)
    return np.asarray(np.abs(s.table.background * values), dtype=np.int16)
