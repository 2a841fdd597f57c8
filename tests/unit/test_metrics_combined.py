"""Participants combined: means and intervals worked out apart, and what is refused."""

import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

import neuroflow
from runtime.errors import ArtifactError, UsageError
from runtime.preprocess import AffineNormaliser
from training.metrics.combined import SEED, Judged, combine
from training.metrics.crossed import crossed_interval
from training.metrics.encoding import encoding_figures
from training.metrics.evaluation import Design, image_figures, retrieval_figures
from training.metrics.ledger import Ledger, decode_ledger, shared_draws
from training.metrics.report import combined_to_markdown, to_json
from training.metrics.result import (
    Absent,
    BundleEvaluation,
    CombinedEvaluation,
    RenderedElsewhere,
    Value,
)
from training.metrics.retrieval import similarities
from training.metrics.spread import Sampled, spread_figures

EVALUATION = Path(__file__).parents[2] / "docs" / "evaluation"
IMAGES, REPEATS, VOXELS = 12, 3, 8
NAMES = [f"picture-{i:02}" for i in range(IMAGES)]
SHOWN = np.arange(IMAGES).repeat(REPEATS)


def rng(seed=0):
    return np.random.default_rng(seed)


def person(seed, names=NAMES, *, regions=("all voxels", "V1"), **changes):
    """Judge somebody's made-up responses, all that needs no pictures."""
    truth = rng(99).normal(size=(IMAGES, VOXELS)).astype(np.float32)
    betas = (truth[SHOWN] + rng(seed).normal(size=(36, VOXELS))).astype(np.float32)
    means = betas.reshape(IMAGES, REPEATS, VOXELS).mean(axis=1)
    said = (0.5 * truth + 0.3 * rng(seed + 50).normal(size=truth.shape)).astype("f")
    once, mean = Design.single(SHOWN), Design.averaged(np.arange(IMAGES))
    ledger, draws = Ledger(names), shared_draws(names)
    rois = {"all voxels": np.ones(VOXELS, bool), "V1": np.arange(VOXELS) < 3}
    encoding = [
        encoding_figures(
            predicted, measured, design, rng(seed),
            units=AffineNormaliser(np.zeros(VOXELS, "f"), np.ones(VOXELS, "f")),
            rois={name: rois[name] for name in regions},
            repeats=betas, repeats_image=SHOWN, draws=draws, ledger=ledger,
        )
        for predicted, measured, design in (
            (said[SHOWN], betas, once), (said, means, mean)
        )
    ]  # fmt: skip
    brain = (truth + rng(seed + 7).normal(size=truth.shape)).astype("f")
    retrieval = retrieval_figures(
        similarities(brain, truth), mean, rng(seed),
        source="decoded latents", is_mean_subtracted=True, ledger=ledger,
    )  # fmt: skip
    spread = spread_figures(
        said, Sampled(64, {"latents": np.ones_like(said)}), betas, SHOWN, rng(seed),
        draws=draws, ledger=ledger,
    )  # fmt: skip
    result = BundleEvaluation(
        bundle_sha256=f"{seed}".ljust(64, "0"), external=Absent("none"),
        recording="nsd", subject=f"subj{seed:02}", responses="betas", split="test",
        backend="ort",
        trials=36, images=IMAGES, repeats=REPEATS, seed=0, reconstructions=[],
        retrieval=[retrieval], encoding=encoding, spread=spread,
        spread_from="residuals", controls=[], networks=[], versions={},
    )  # fmt: skip
    return Judged(f"out/{seed}", replace(result, **changes), ledger)


def test_an_image_that_two_people_saw_is_one_image():
    one, two = person(1), person(2)

    found = combine([one, two])

    values = [j.ledger.values["encoding/single/mse"] for j in (one, two)]
    wanted = crossed_interval(
        np.concatenate([v for v, _ in values]),
        rng(SEED),
        images=np.concatenate([about for _, about in values]),
        participants=np.arange(2).repeat(36),
    )
    mse = found.encoding[0].mse
    assert mse.mean == pytest.approx(
        (one.result.encoding[0].mse.mean + two.result.encoding[0].mse.mean) / 2
    )
    assert mse.n == IMAGES
    # The generator stands elsewhere by then: 4,000 draws know an edge to a few percent.
    width = wanted.high - wanted.low
    assert mse.low == pytest.approx(wanted.low, abs=0.1 * width)
    assert mse.high == pytest.approx(wanted.high, abs=0.1 * width)
    assert (found.images, found.images_seen_by_all) == (IMAGES, IMAGES)
    assert [one.subject for one in found.participants] == ["subj01", "subj02"]


def with_hashes(one, hashes):
    ledger = one.ledger
    kept = Ledger(ledger.images, hashes, ledger.values, ledger.draws)
    return Judged(one.name, one.result, decode_ledger(kept.encode(), "values"))


def test_pictures_of_one_name_are_one_image_only_where_their_pixels_are():
    hashes = [f"{row:016x}" for row in range(IMAGES)]
    others = [f"{row + 100:016x}" for row in range(IMAGES)]
    one, two = person(1), person(2)

    same = combine([with_hashes(one, hashes), with_hashes(two, hashes)])
    none = combine([with_hashes(one, hashes), with_hashes(two, others)])
    some = combine(
        [with_hashes(one, hashes), with_hashes(two, [*hashes[:5], *others[5:]])]
    )
    unknown = combine([with_hashes(one, hashes), two])

    assert (same.images, same.images_seen_by_all) == (IMAGES, IMAGES)
    assert (none.images, none.images_seen_by_all) == (2 * IMAGES, 0)
    assert (some.images, some.images_seen_by_all) == (2 * IMAGES - 5, 5)
    assert (unknown.images, unknown.images_seen_by_all) == (IMAGES, IMAGES)
    assert none.encoding[0].mse.n == 2 * IMAGES
    # Images that were drawn for each person by himself say more.
    width = [
        found.encoding[0].mse.high - found.encoding[0].mse.low for found in (none, same)
    ]
    assert width[0] < width[1]


def test_a_ledger_with_a_hash_too_few_is_refused():
    kept = Ledger(["a", "b"], ["0" * 16])

    with pytest.raises(ArtifactError, match="a hash of each of 2 images, found 1"):
        decode_ledger(kept.encode(), "values")


def test_values_by_hand_of_people_who_differ_and_images_that_do_not():
    # Everybody's images are all alike, people are 0 and 1: of two people drawn the mean
    # is 0, .5 or 1 with chance 1/4, 1/2, 1/4, so that the central 95 % is [0, 1].
    people = []
    for number in (0, 1):
        one = person(number + 1)
        row = one.result.retrieval[0]
        level = Value(mean=float(number), n=IMAGES)
        name = "retrieval/averaged/decoded latents/own/without mean/forward"
        about = one.ledger.values[name][1]
        one.ledger.values[name] = (np.full(IMAGES, float(number)), about)
        changed = replace(one.result, retrieval=[replace(row, forward=level)])
        people.append(Judged(one.name, changed, one.ledger))

    found = combine(people).retrieval[0].forward

    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_what_is_no_mean_over_images_is_drawn_with_the_same_images_for_everybody():
    people = [person(1), person(2), person(3)]

    found = combine(people).encoding[1].rois

    assert [roi.roi for roi in found] == ["all voxels", "V1"]
    assert found[1].voxels == 9
    for k, name in enumerate(("all voxels", "V1")):
        theirs = [j.result.encoding[1].rois[k] for j in people]
        for field in ("correlation", "normalised"):
            figure = getattr(found[k], field)
            mean = np.mean([getattr(roi, field).mean for roi in theirs])
            assert figure.mean == pytest.approx(mean)
            draws = np.stack(
                [
                    j.ledger.draws[f"encoding/averaged/regions/{name}/{field}"]
                    for j in people
                ]
            )
            # Images alone give at least the interval of their own draws' mean.
            low, high = np.percentile(draws.mean(axis=0), [2.5, 97.5])
            assert figure.low < low + 0.05
            assert figure.high > high - 0.05
        assert found[k].ceiling.low is None
        assert found[k].explained_variance.mean == pytest.approx(
            np.mean([roi.explained_variance.mean for roi in theirs])
        )


def test_the_order_of_the_images_changes_no_draw():
    order = rng().permutation(IMAGES)
    straight = shared_draws(NAMES)
    turned = shared_draws([NAMES[i] for i in order])

    np.testing.assert_array_equal(turned, straight[:, order])
    assert (straight.sum(axis=1) == IMAGES).all()


def test_people_with_images_of_their_own_or_a_few_in_common():
    others = [f"other-{i}" for i in range(IMAGES)]
    few = NAMES[:4] + others[4:]

    apart = combine([person(1), person(2, others)])
    partly = combine([person(1), person(2, few)])

    assert (apart.images, apart.images_seen_by_all) == (2 * IMAGES, 0)
    assert apart.encoding[1].rois[0].correlation.low is not None
    assert (partly.images, partly.images_seen_by_all) == (20, 4)
    # Their draws share some images and not others: no interval rather than a wrong one.
    assert partly.encoding[1].rois[0].correlation.low is None
    assert partly.encoding[1].mse.low is not None


def of_one_image(seed, mse):
    """Somebody who saw one picture, of whom nothing else is known."""
    one, none = person(seed), Absent("not asked for")
    row = replace(
        one.result.encoding[1], mse=Value(mean=mse, n=1),
        pearson=none, cosine=none, pearson_percent=none, rois=[],
    )  # fmt: skip
    result = replace(one.result, images=1, retrieval=[], spread=[], encoding=[row])
    values = {"encoding/averaged/mse": (np.array([mse]), np.zeros(1, np.int64))}
    return Judged(one.name, result, Ledger(["picture"], values=values))


def test_one_image_has_a_mean_over_people_and_no_interval():
    found = combine([of_one_image(1, 0.5), of_one_image(2, 1.5)])

    assert found.encoding[0].mse == Value(mean=1.0, n=1)


def test_what_one_person_lacks_is_absent_with_whose_it_is():
    one, two = person(1), person(2, regions=("all voxels",))
    spread = [replace(two.result.spread[0], coverage=Absent("no repeats"))]
    two = Judged(two.name, replace(two.result, spread=spread), two.ledger)

    found = combine([one, two])

    assert found.spread[0].coverage == Absent("subj02: no repeats")
    assert isinstance(found.spread[0].error_ratio, Value)
    assert [roi.roi for roi in found.encoding[0].rois] == ["all voxels"]


def with_pictures(seed, rendered):
    """Somebody's evaluation with image metrics of pictures from here or elsewhere."""
    one = person(seed)
    seen = rng(1).integers(0, 256, (IMAGES, 8, 8, 3)).astype(np.uint8)
    made = rng(seed).integers(0, 256, seen.shape).astype(np.uint8)
    row = image_figures(
        seen, made, Design.averaged(np.arange(IMAGES)), {}, rng(seed),
        source="measured responses", decoder="own", rendered=rendered,
        ledger=one.ledger,
    )  # fmt: skip
    record = RenderedElsewhere(sha256=f"{seed}" * 64, images=IMAGES, side=8)
    changes = {"rendered_elsewhere": record if rendered == "elsewhere" else None}
    result = replace(one.result, reconstructions=[row], **changes)
    return Judged(one.name, result, one.ledger)


def test_pictures_from_elsewhere_are_combined_with_such_alone_and_named():
    two = combine([with_pictures(1, "elsewhere"), with_pictures(2, "elsewhere")])
    mixed = combine([with_pictures(1, "elsewhere"), with_pictures(2, "here")])

    (row,) = two.reconstructions
    assert row.rendered == "elsewhere"
    assert row.pixcorr.low <= row.pixcorr.mean <= row.pixcorr.high
    text = combined_to_markdown(two)
    for who, digest in (("subj01", "1" * 12), ("subj02", "2" * 12)):
        assert f"{who} 12 pictures of 8 x 8 pixels, sha256 `{digest}`" in text
    assert mixed.reconstructions == []


def test_evaluations_that_do_not_belong_together_are_refused():
    one = person(1)
    with pytest.raises(UsageError, match="at least two"):
        combine([one])
    with pytest.raises(UsageError, match="subj01 in out/1 and out/1"):
        combine([one, one])
    renamed = person(1, subject="somebody else")
    with pytest.raises(UsageError, match="bundle 100000000000 in out/1 and out/1"):
        combine([one, renamed])
    with pytest.raises(UsageError, match="split: expected test as in out/1, found val"):
        combine([one, person(2, split="val")])
    with pytest.raises(UsageError, match="responses: expected betas"):
        combine([one, person(2, responses="others")])
    other = person(3)
    with pytest.raises(
        ArtifactError, match=r"out/2: retrieval/.*: expected values of mean"
    ):
        combine([one, Judged("out/2", person(2).result, other.ledger)])
    with pytest.raises(ArtifactError, match="values of 12 images, found 2"):
        combine([one, Judged("out/2", person(2).result, Ledger(NAMES[:2]))])


def test_a_ledger_comes_back_as_it_was_and_its_bytes_are_always_the_same():
    ledger = person(1).ledger

    again = decode_ledger(ledger.encode(), "x.npz")

    assert again.images == NAMES
    assert again.values.keys() == ledger.values.keys()
    for name, (values, about) in ledger.values.items():
        np.testing.assert_array_equal(again.values[name][0], values)
        np.testing.assert_array_equal(again.values[name][1], about)
    np.testing.assert_array_equal(
        again.draws["spread/latents/error_ratio"],
        ledger.draws["spread/latents/error_ratio"],
    )
    assert ledger.encode() == person(1).ledger.encode()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an archive",
        npz(x=np.array([{}], dtype=object)),
        npz(x=np.zeros(3)),
        npz(**{"image names": np.array(["a"]), "mse/values": np.zeros(2)}),
        npz(
            **{
                "image names": np.array(["a"]),
                "mse/values": np.zeros(2),
                "mse/images": np.array([0, 1]),
            }
        ),
    ],
)
def test_a_damaged_ledger_is_one_line(data):
    with pytest.raises(ArtifactError, match=r"x\.npz: .*expected") as caught:
        decode_ledger(data, "x.npz")

    assert "allow_pickle" not in str(caught.value)


def test_a_member_that_is_cut_is_one_line():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("mse/values.npy", b"\x93NUMPY\x01\x00")
    with pytest.raises(ArtifactError, match="Evaluate again"):
        decode_ledger(stream.getvalue(), "x.npz")


def written(folder, judged):
    folder.mkdir()
    (folder / "evaluation.json").write_bytes(to_json(judged.result))
    (folder / "evaluation_images.npz").write_bytes(judged.ledger.encode())
    return str(folder)


def said(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["neuroflow", "evaluate", *arguments])
    status = neuroflow.main()
    return status, *capsys.readouterr()


def test_the_verb_reads_folders_and_writes_one(tmp_path, capsys, monkeypatch):
    folders = [written(tmp_path / str(i), person(i)) for i in (1, 2, 5)]
    out = tmp_path / "mean"

    status, text, error = said(
        capsys, monkeypatch, "--combine", *folders, "--out", str(out)
    )

    assert (status, error) == (0, "")
    assert text == (out / "combined.md").read_text() != ""
    found = msgspec.json.decode(
        (out / "combined.json").read_bytes(), type=CombinedEvaluation
    )
    assert [one.subject for one in found.participants] == ["subj01", "subj02", "subj05"]


def test_the_verb_refuses_in_one_line(tmp_path, capsys, monkeypatch):
    one, two = (written(tmp_path / str(i), person(i)) for i in (1, 2))
    old = tmp_path / "old"
    written(old, person(5))
    (old / "evaluation.json").write_bytes(b'{"schema": 1}')
    for arguments, status, line in (
        ([one], 2, "expected at least two evaluations, found 1"),
        ([one, two, "--trials", one], 2, "beside them"),
        ([one, two, "--save-latents"], 2, "a flag of theirs"),
        ([one, two, "--out", one], 2, "expected another folder than those"),
        ([one, str(tmp_path / "none")], 1, "No such file or directory. Evaluate"),
        ([one, str(old)], 1, "expected an evaluation of this version, found"),
    ):
        found = said(capsys, monkeypatch, "--combine", *arguments)
        assert found[:2] == (status, "")
        assert line in found[2]
        assert len(found[2].splitlines()) == 1


def test_the_page_says_who_was_combined_and_what_the_brackets_are():
    text = combined_to_markdown(combine([person(1), person(2)]))

    assert "2 participants (subj01, subj02), split test, 12 images, 12 of them" in text
    assert "other participants and other images" in text
    assert "| subj02 | nsd | `200000000000` | 36 | 12 | 3 |" in text
    assert "| decoded latents, averaged trials, own | yes | 12 | " in text
    assert "## Negative control" not in text


BRACKETS = (
    "Brackets are 95 % intervals over other participants and other images, {}, seed 0. "
    "Few participants say little of others."
)


def test_the_page_says_which_bootstrap_it_was():
    hashes = [f"{row:016x}" for row in range(IMAGES)]
    own = [f"{row + 100:016x}" for row in range(IMAGES)]
    one = with_hashes(person(1), hashes)
    crossed = BRACKETS.format("both drawn with replacement and apart from one another")
    within = BRACKETS.format(
        "participants drawn with replacement and then, as no image was seen by all of "
        "them, images within each"
    )

    for theirs, wanted in (
        (hashes, crossed), ([*hashes[:1], *own[1:]], crossed), (own, within),
    ):  # fmt: skip
        text = combined_to_markdown(combine([one, with_hashes(person(2), theirs)]))
        assert wanted in text
        assert text.count("Brackets are") == 1


def test_the_committed_page_is_that_of_the_committed_figures():
    data = (EVALUATION / "combined.json").read_bytes()
    result = msgspec.json.decode(data, type=CombinedEvaluation)

    assert result.images_seen_by_all == 0
    assert combined_to_markdown(result) == (EVALUATION / "combined.md").read_text()
