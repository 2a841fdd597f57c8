"""`neuroflow evaluate --reconstructions`: latents that are no images here, all the way.

The bundle's latents are said to be OpenCLIP's, so that nothing here makes pictures of
them. They are those of patches, so that the test can, in the place of unCLIP.
"""

import hashlib
import io
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

import neuroflow
from runtime.bundle import BackboneSpec
from runtime.estimator import ExternalEstimator
from runtime.patch_dct import PatchDct
from runtime.preprocess import AffineNormaliser, FeatureSpace, NoiseWhitening, VoxelMask
from tests.linear_bundle import write_linear_bundle
from training.data.manifest import Split, TrialsManifest, VisualSource
from training.data.writer import TrialsWriter
from training.metrics.identification import two_way
from training.metrics.ledger import decode_ledger
from training.metrics.network_specs import NETWORKS
from training.metrics.pixels import pixel_correlations, structural_similarities
from training.metrics.report import from_json
from training.metrics.result import Absent, Value
from training.ridge import fit_ridge
from verbs.reconstructions import LATENTS

DCT = PatchDct(image_size=16, patch=8)
LATENT = (DCT.tokens, DCT.width)
MASK = VoxelMask.from_volume(np.ones((5, 4, 3), bool))
TRAIN, TEST, REPEATS = 60, 6, 2
NAMES = [f"nsd-{i:05}" for i in range(TRAIN + TEST)]
VISUAL = VisualSource(name="open_clip ViT", detail="tokens", image_size=16, patch=8)
EXTERNAL = ExternalEstimator(name="nsd", detail="b3", normalisation="session-train")


def pictures():
    rng = np.random.default_rng(3)
    coarse = rng.integers(20, 236, (TRAIN + TEST, 4, 4, 3)).astype(np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """A folder with prepared trials, a bundle of them, and weights of AlexNet."""
    root = tmp_path_factory.mktemp("laboratory")
    rng, seen = np.random.default_rng(4), pictures()
    latents = np.stack([DCT.tokens_from_image(one) for one in seen])
    image = np.concatenate(
        [np.arange(TRAIN), np.tile(np.arange(TEST), REPEATS) + TRAIN]
    )
    mean = latents[:TRAIN].mean(axis=0)
    centred = (latents - mean).reshape(len(seen), -1)
    weights = rng.normal(size=(centred.shape[1], MASK.voxels)) / centred.std() / 28
    betas = centred[image] @ weights + 0.3 * rng.normal(size=(len(image), MASK.voxels))
    betas = betas.astype(np.float32)
    write_trials(root / "trials", betas, image, latents, seen[TRAIN:])
    learned = (betas[:TRAIN], centred[:TRAIN])
    readout = fit_ridge(*learned, 1.0).weights
    np.savez(root / "truth.npz", betas=betas[TRAIN:], readout=readout, mean=mean)
    write_linear_bundle(
        root / "bundle",
        readout,
        fit_ridge(*reversed(learned), 1.0).weights,
        space=FeatureSpace(
            AffineNormaliser(np.zeros(60, np.float32), np.ones(60, np.float32)),
            NoiseWhitening.identity(60),
        ),
        mask=MASK,
        latent_mean=mean,
        estimator=EXTERNAL,
        backbone=BackboneSpec(name=VISUAL.name, image_size=16, patch=8),
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        features = torchvision.models.alexnet(weights=None).features
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    save_file(state, root / "alexnet.safetensors")
    return root


def write_trials(folder, betas, image, latents, kept):
    manifest = TrialsManifest(
        source="nsd", subject="sub-linear", voxels=MASK.voxels, mask_sha256=MASK.sha256,
        affine=tuple(map(tuple, np.eye(4).tolist())),
        betas="nsd", betas_detail="b3", normalisation="session-train",
        groups=("a",), runs=("1",),
        splits={
            "train": Split(first=0, trials=TRAIN),
            "test": Split(first=TRAIN, trials=TEST * REPEATS),
        },
        image_ids=tuple(NAMES), visual=VISUAL, test_images=TEST, files={},
    )  # fmt: skip
    more = {"test_pictures": ("uint8", kept.shape)}
    writer = TrialsWriter(folder, manifest, len(image), latents.shape, "float32", more)
    writer.write_statistics(0, np.zeros(60, np.float32), np.ones(60, np.float32))
    writer.write_voxels(np.arange(len(image)), betas, 0)
    writer.write_latents(0, latents)
    writer.write_rows("test_pictures", 0, kept)
    nothing = np.zeros(len(image), np.int64)
    indices = {
        "image": image, "group": nothing, "run": nothing,
        "position": np.arange(len(image)),
    }  # fmt: skip
    writer.finish(indices, np.arange(TRAIN), {"mask": MASK.volume()})


def said(laboratory, *arguments):
    out, error = io.StringIO(), io.StringIO()
    argv = [
        "neuroflow", "evaluate", "--bundle", str(laboratory / "bundle"),
        "--trials", str(laboratory / "trials"), *map(str, arguments),
    ]  # fmt: skip
    with (
        mock.patch("sys.argv", argv), redirect_stdout(out), redirect_stderr(error)
    ):  # fmt: skip
        status = neuroflow.main()
    return status, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def first(laboratory):
    """The evaluation without pictures, which says what they are made from."""
    out = laboratory / "first"
    status, text, error = said(laboratory, "--out", out, "--save-latents")
    assert status == 0, error
    return out, text, from_json((out / "evaluation.json").read_bytes())


@pytest.fixture(scope="module")
def rendered(laboratory, first):
    """What a laboratory's own program makes of the latents: a picture for each."""
    folder = laboratory / "rendered"
    folder.mkdir()
    for name, z_v in load_file(first[0] / LATENTS).items():
        Image.fromarray(DCT.image_from_tokens(z_v)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def judged(laboratory, rendered):
    out = laboratory / "judged"
    status, text, error = said(
        laboratory, "--reconstructions", rendered, "--out", out,
        "--weights", f"alexnet={laboratory / 'alexnet.safetensors'}",
    )  # fmt: skip
    assert status == 0, error
    return out, text, from_json((out / "evaluation.json").read_bytes())


def by(rows, **wanted):
    (row,) = [r for r in rows if all(getattr(r, k) == v for k, v in wanted.items())]
    return row


def test_without_pictures_image_metrics_are_absent_and_the_remedy_is_named(first):
    out, text, result = first

    assert result.rendered_elsewhere is None
    for row in result.reconstructions:
        assert isinstance(row.pixcorr, Absent)
    assert "pictures that were rendered elsewhere are taken (--reconstructions)" in text
    assert not (out / "contact.png").exists()
    assert set(load_file(out / LATENTS)) == set(NAMES[TRAIN:])


def test_saved_latents_are_decoded_from_the_mean_of_an_images_trials(laboratory, first):
    out, _, result = first
    truth = np.load(laboratory / "truth.npz")

    found = load_file(out / LATENTS)

    for row, name in enumerate(NAMES[TRAIN:]):
        mean_response = truth["betas"][row::TEST].mean(axis=0)
        wanted = (mean_response @ truth["readout"]).reshape(LATENT) + truth["mean"]
        np.testing.assert_allclose(found[name], wanted, atol=1e-4)
    with safe_open(out / LATENTS, "numpy") as opened:
        assert opened.metadata() == {
            "bundle_sha256": result.bundle_sha256,
            "split": "test",
            "visual": "open_clip ViT, 16 px by 8",
        }


def test_every_image_metric_is_of_the_pictures_that_were_given(judged, rendered):
    _, _, result = judged
    seen = pictures()[TRAIN:]
    given = np.stack(
        [np.asarray(Image.open(rendered / f"{n}.png")) for n in NAMES[TRAIN:]]
    )

    row = by(result.reconstructions, rendered="elsewhere")
    assert (row.trials, row.source, row.decoder) == (
        "averaged", "measured responses", "own",
    )  # fmt: skip
    correlations = pixel_correlations(seen, given)
    # These responses hold much of what was seen.
    assert correlations.mean() > 0.3
    assert row.pixcorr.mean == pytest.approx(correlations.mean())
    assert row.pixcorr.low < row.pixcorr.mean < row.pixcorr.high
    assert row.ssim.mean == pytest.approx(structural_similarities(seen, given).mean())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = torchvision.models.alexnet(weights=None).features.eval()
    with torch.no_grad():
        a, b = (
            layers[:5](NETWORKS["alexnet"].prepare(images)).flatten(1).numpy()
            for images in (seen, given)
        )
    assert row.alex2.mean == pytest.approx(two_way(a, b).mean())
    assert isinstance(row.alex5, Value)
    assert isinstance(row.clip, Absent)
    others = [r for r in result.reconstructions if r.rendered == "here"]
    assert [isinstance(r.pixcorr, Absent) for r in others] == [True, True]


def test_the_report_names_the_set_that_it_judges(judged, rendered):
    out, text, result = judged

    lines = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(rendered.iterdir())
    )
    digest = hashlib.sha256(lines.encode()).hexdigest()
    record = result.rendered_elsewhere
    assert (record.sha256, record.images, record.side) == (digest, TEST, 16)
    assert (
        "pictures that were rendered elsewhere: 6 pictures of 16 x 16 pixels, sha256 "
        f"`{digest[:12]}`" in text
    )
    assert "own decoder, rendered elsewhere** | 0." in text
    controls = {control.metric: control.value for control in result.controls}
    assert isinstance(controls["PixCorr"], Value)
    assert isinstance(controls["SSIM"], Value)
    with Image.open(out / "contact.png") as sheet:
        assert len(sheet.getcolors(maxcolors=10**6) or []) > 50
    ledger = decode_ledger((out / "evaluation_images.npz").read_bytes(), "npz")
    values, _ = ledger.values[
        "images/averaged/measured responses/own/rendered elsewhere/pixcorr"
    ]
    row = by(result.reconstructions, rendered="elsewhere")
    assert values.mean() == pytest.approx(row.pixcorr.mean)


def test_figures_of_latents_and_responses_are_those_without_pictures(first, judged):
    before, after = first[2], judged[2]

    for a, b in zip(before.retrieval, after.retrieval, strict=True):
        assert (a.forward.mean, a.backward.mean) == (b.forward.mean, b.backward.mean)
    for a, b in zip(before.encoding, after.encoding, strict=True):
        assert a.mse.mean == b.mse.mean


def test_what_was_seen_given_back_is_perfect(laboratory, tmp_path):
    for name, pixels in zip(NAMES[TRAIN:], pictures()[TRAIN:], strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")

    status, text, error = said(laboratory, "--reconstructions", tmp_path, "--json")

    assert status == 0, error
    row = by(from_json(text.encode()).reconstructions, rendered="elsewhere")
    assert (row.pixcorr.mean, row.ssim.mean) == pytest.approx((1, 1))


def test_a_picture_too_few_is_one_line(laboratory, tmp_path):
    status, text, error = said(laboratory, "--reconstructions", tmp_path)

    assert (status, text) == (1, "")
    assert error.splitlines()[-1] == (
        f"neuroflow: --reconstructions: {tmp_path}: expected one picture for each of "
        "the 6 images of the split, found none for 6 (nsd-00060, nsd-00061, ...). Name "
        "each by its image, such as nsd-00060.png; decoded_latents.safetensors has the "
        "names (--save-latents)"
    )
