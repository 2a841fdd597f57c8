"""Results of ablations: kept between runs, paired, tabled, drawn."""

import functools
from xml.etree import ElementTree

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks import ablations
from runtime.errors import ConfigError
from training.ablation import FULL, PUBLISHED, SERVED, STEPS, VARIANTS, Sampler
from training.ablation_judge import Judged, Judgement
from training.config import config_from_preset
from verbs.ablation_figure import ablation_figure
from verbs.ablation_table import VariantResult, markdown, summary_of

BASE = config_from_preset("tiny")
IMAGES, REPEATS = 12, 3


def result(variant, seed=11, right=0.5, **changes):
    rng = np.random.default_rng(seed)
    config = VARIANTS[variant].change(BASE)
    path = config.flow_training.path

    def hits(n):
        return [bool(hit) for hit in rng.random(n) < right]

    judged = [
        Judged(
            sampler=sampler,
            single=hits(IMAGES * REPEATS),
            three=hits(IMAGES),
            encoding=rng.normal(right, 0.1, IMAGES).tolist(),
            synthetic=hits(IMAGES),
            round_trip=None if sampler is None else 1 / sampler.steps,
        )
        for sampler in VARIANTS[variant].samplers(path)
    ]
    fields = {
        "seed": seed,
        "variant": variant,
        "path": path,
        "config_sha256": config.fingerprint(),
        "table_sha256": "t",
        "machine": "a machine",
        "cpu_s": 1.0,
        "judgement": Judgement(
            gallery=300,
            image=list(range(IMAGES)) * REPEATS,
            images=list(range(IMAGES)),
            raw=hits(IMAGES),
            judged=judged,
        ),
    }
    return VariantResult(**fields | changes)


@functools.cache
def some_results():
    return [result(v, s) for s in (11, 12) for v in VARIANTS if (v, s) != ("no-kl", 12)]


@functools.cache
def summary():
    return summary_of(some_results()[::-1])


def test_a_variant_is_paired_with_the_full_model_by_seed_and_sampler():
    results = some_results()

    by_key = {(r.variant, r.sampler): r for r in summary().rows}
    assert by_key[FULL, PUBLISHED].difference is None
    assert by_key["no-kl", SERVED].seeds == [11]
    assert by_key["no-cycle", SERVED].seeds == [11, 12]
    kept = {(r.variant, r.seed): r.judgement.judged for r in results}
    served = [Sampler("rotation", 2), Sampler("euler", 20)]
    for variant, sampler, like in (
        ("no-kl", SERVED, served[0]),
        ("no-kl", PUBLISHED, served[1]),
        ("no-xfm", None, served[1]),
        (FULL, SERVED, served[1]),
        ("linear", Sampler("euler", 1), served[1]),
    ):
        row = by_key[variant, sampler]
        ours, full = (
            np.concatenate(
                [
                    next(j.three for j in kept[name, seed] if j.sampler == chosen)
                    for seed in row.seeds
                ]
            )
            for name, chosen in ((variant, sampler), (FULL, like))
        )
        assert row.difference.three.mean == pytest.approx(
            ours.mean() - full.mean(), abs=1e-12
        )
    assert summary().chance == 1 / 300


def test_a_participant_alone_is_in_a_row_by_its_seed():
    row = next(r for r in summary().rows if (r.variant, r.sampler) == (FULL, SERVED))
    judged = {r.seed: r.judgement for r in some_results() if r.variant == FULL}
    one = next(j for j in judged[12].judged if j.sampler == SERVED)

    assert sorted(row.by_seed) == row.seeds == [11, 12]
    assert row.by_seed[12] == {
        "single": np.mean(one.single),
        "three": np.mean(one.three),
        "encoding": np.mean(one.encoding),
        "raw": np.mean(judged[12].raw),
        "synthetic": np.mean(one.synthetic),
    }
    for measure in ("single", "three", "raw", "synthetic"):
        alone = [figures[measure] for figures in row.by_seed.values()]
        assert np.mean(alone) == pytest.approx(getattr(row.figures, measure).mean)


def test_there_is_nothing_to_compare_without_the_full_model():
    with pytest.raises(ConfigError, match="expected results of the variant full"):
        summary_of([result("no-kl")])
    with pytest.raises(ConfigError, match="participants of one table, found t, u"):
        summary_of([result(FULL), result(FULL, 12, table_sha256="u")])
    lacking = result("no-kl")
    fewer = replace(lacking.judgement, judged=lacking.judgement.judged[:1])
    with pytest.raises(ConfigError, match="no-kl of seed 11: expected a result of"):
        summary_of([result(FULL), replace(lacking, judgement=fewer)])


def test_the_tables_hold_every_row_and_say_what_does_not_apply():
    text = markdown(summary())

    assert "2 participants, seeds 11, 12, 36 held-out trials of 12 images" in text
    assert "| no KL (seeds 11) | euler, 20 |" in text
    assert "| no flow: z_n for z_v | none |" in text
    assert "| cos2 | rotation | not applicable |" in text
    assert text.count("| cos | rotation, ") == len(STEPS)
    for block in text.split("\n\n")[1:]:
        widths = {line.count("|") for line in block.strip().splitlines()}
        assert len(widths) == 1, block


def test_the_figure_is_whole_and_says_in_words_what_it_shows():
    drawn = ablation_figure(summary())

    root = ElementTree.fromstring(drawn)
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter():
        for key, limit in (("x", width), ("x2", width), ("cx", width), ("y", height),
                           ("y2", height), ("cy", height)):  # fmt: skip
            value = element.get(key)
            assert value is None or 0 <= float(value) <= limit
    curves = [e for e in root.iter() if e.get("class", "").startswith("curve")]
    assert len(curves) == 4 + 2 * 4  # the legend, and two panels
    assert "no KL: retrieval " in root.get("aria-label")
    assert "prefers-color-scheme:dark" in drawn


def test_what_is_finished_is_not_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return result("no-kl")

    file = tmp_path / "11" / "no-kl.json"

    assert ablations.kept(file, make) == ablations.kept(file, make) == result("no-kl")
    assert made == [1]
    assert ablations.results_in(tmp_path / "11", [FULL, "no-kl"]) == [result("no-kl")]


def test_a_run_that_is_cut_off_leaves_no_result(tmp_path):
    file = tmp_path / "no-kl.json"

    def cut():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablations.kept(file, cut)

    assert not file.exists()
