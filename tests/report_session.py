"""Builds a decoding session that never was, for the tests of its report."""

import numpy as np

from verbs.report import Report, ReportCandidate, ReportTrial, VolumeTiming


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def trial(i: int, *, is_live: bool, has_images: bool = True) -> ReportTrial:
    is_abstained = i % 11 == 5
    is_correct = not is_abstained and i % 3 != 0
    order = (i, i + 1, i + 2) if is_correct else (i + 1, i, i + 2)
    candidates = tuple(
        ReportCandidate(
            f"stim{k % 20}",
            f"label {k % 20}",
            0.9 - 0.2 * rank,
            picture(k % 20) if has_images else None,
        )
        for rank, k in enumerate(order)
    )
    return ReportTrial(
        trial_id=f"trial-{i}",
        run_id="run-1",
        onset_s=12.0 + 8.0 * i,
        delay_s=7.5,
        is_live=is_live,
        seen_id=f"stim{i % 20}",
        seen_label=f"label {i % 20}",
        seen_image=picture(i % 20) if has_images else None,
        decoded_image=picture(1000 + i) if has_images else None,
        decision="ABSTAIN" if is_abstained else "ANSWER",
        label=None if is_abstained else candidates[0].label,
        confidence=None if is_abstained else (i * 37 % 100) / 100,
        candidates=candidates,
        is_correct=is_correct,
    )


def session(
    n_live: int = 16, n_fast: int = 84, n_volumes: int = 300, *, has_images: bool = True
) -> Report:
    trials = tuple(
        trial(i, is_live=i < n_live, has_images=has_images)
        for i in range(n_live + n_fast)
    )
    timings = tuple(
        VolumeTiming("run-1", i, i < 120, 4.0 + i % 7, "OK", "LIVE", float(i))
        for i in range(n_volumes)
    )
    summary: dict[str, object] = {
        "volumes_sent": 1301,
        "outcomes_received": 1302,
        "inputs": {"OK": 1297, "MISSING": 4},
        "timings": {"LIVE": 311, "CATCHUP": 990},
        "deadline_misses": 17,
        "latency_ms": {"p50": 6.53, "p90": 9.13, "p99": 12.75, "max": 31.9, "n": 1299},
        "answer_delay_s": 7.52,
        "tr_s": 1.25,
        "trials": len(trials),
        "retrieval_top1": 0.6123,
        "chance_top1": 0.0125,
        "ridge_top1": 0.4247,
        "noise_ceiling_top1": None,
        "image_pixcorr": None,
        "encode_voxel_r": 0.3127,
        "encode_noise_ceiling_r": 0.4051,
        "parity_rel_l2": 3.1e-07,
        "backend": "openvino",
        "versions": {"python": "3.11.9"},
        "seed": 4711,
        "something_new": [1, 2.5],
    }
    return Report(
        "A session",
        summary,
        trials,
        timings,
        (("bundle", "sha256:3fa1"),),
        ("The participant is simulated.",),
    )
