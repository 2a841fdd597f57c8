"""`neuroflow evaluate --bundle`: the papers' metrics of a bundle on a split."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import numpy as np

from runtime.bundle import open_bundle
from runtime.errors import ArtifactError, UsageError
from runtime.estimator import description
from runtime.graphs import BOTH_WAYS
from runtime.model import open_model
from training.checkpoint import library_versions
from training.data.store import open_trials
from training.learned_from import backbone_words
from training.metrics.feature_networks import (
    NAMES,
    FeatureNetwork,
    NetworkName,
    open_network,
)
from training.metrics.network_specs import NETWORKS
from training.metrics.report import LEARNED, to_json, to_markdown
from training.metrics.result import Absent, BundleEvaluation, NetworkRecord
from training.metrics.voxels import averaged_repeats
from verbs.bundle_evaluation import evaluate_split
from verbs.bundle_trials import read_trials
from verbs.evaluation_figures import write_figures
from verbs.other_trials import others_of_recording, others_of_trials
from verbs.prepared import said_of_trials, split_of
from verbs.progress import screen
from verbs.reconstructions import read_reconstructions, write_latents
from verbs.sealed_places import refuse_sealed
from verbs.split_trials import BundleMaps, check_external

SEED = 0
EVALUATION, LEDGER = "evaluation.json", "evaluation_images.npz"
NO_EXTERNAL = Absent(
    "no independently trained encoder and decoder were given (--external)"
)


def evaluate_bundle(
    bundle: Path,
    *,
    recording: Path | None,
    trials: Path | None,
    split: str,
    out: Path | None,
    weights: Sequence[str] = (),
    download: bool = False,
    external: Path | None = None,
    reconstructions: Path | None = None,
    save_latents: bool = False,
    backend: str = "ort",
    as_json: bool = False,
) -> BundleEvaluation:
    """Run a bundle over a split and compute everything that can be had.

    Args:
        bundle: What export wrote.
        recording: A BIDS folder with events and pictures.
        trials: Prepared trials instead.
        split: Whose trials; the model must not have been trained on it.
        out: Folder for the JSON, the tables and the figures; None writes none.
        weights: NAME=FILE, a file of weights for a feature network.
        download: Let torchvision download what it has.
        external: A bundle of another training, which decodes our predictions and
            predicts what our decoder reads.
        reconstructions: A folder of pictures that were rendered elsewhere from what the
            bundle decodes from the mean response to each image.
        save_latents: Write into `out` what these can be rendered from.
        backend: Engine library.
        as_json: Print the JSON instead of the tables.

    Raises:
        UsageError: Neither a recording nor trials, or both; the bundle has no trials
            or no images, or a weight no network; latents to be saved nowhere, or
            reconstructions of pictures that nobody kept.
        BundleError: A bundle is damaged, or the external one does not fit.
        RecordingError: The recording is damaged or has no such split.
        ArtifactError: The trials are damaged, or not those of the bundle; or the
            reconstructions are not one sound picture an image; or a file of weights
            that was asked for is missing or not to be used; or `out` is a folder that
            lists its files, or in one.
    """
    if (recording is None) == (trials is None):
        raise UsageError(
            "evaluate --bundle: expected either --recording or --trials, "
            f"found {'neither' if recording is None else 'both'}"
        )
    files = parse_weights(weights)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out: expected a folder, found the file {out}")
    if out is not None:
        refuse_sealed(out)
    if save_latents and out is None:
        raise UsageError("--save-latents: expected --out, a folder, found none")
    with screen() as shown, ExitStack() as opened:
        shown.stage("feature networks")
        networks: dict[str, FeatureNetwork | Absent] = {
            name: open_network(name, files.get(name), download=download)
            for name in NAMES
        }
        for name in files:
            if isinstance(asked := networks[name], Absent):
                raise ArtifactError(f"--weights {name}={files[name]}: {asked.reason}")
        shown.stage("open the bundle")
        own = opened.enter_context(open_bundle(bundle))
        model = opened.enter_context(open_model(own, backend))
        maps, other = BundleMaps(own, model), None
        if external is not None:
            theirs = opened.enter_context(open_bundle(external))
            check_external(own, theirs)
            other = BundleMaps(
                theirs,
                opened.enter_context(open_model(theirs, backend, parts=BOTH_WAYS)),
            )
        if split == "train":
            shown.say(f"--split train: {LEARNED}")
        shown.stage(f"trials of split {split}")
        if trials is not None:
            prepared = open_trials(trials)
            if shared := said_of_trials(prepared, split):
                shown.say(shared)
            found = split_of(prepared, own, split)
            others = others_of_trials(prepared, own, split)
        else:
            folder = recording or Path()
            found = read_trials(folder, own, split, shown.count, say=shown.say)
            others = others_of_recording(folder, own, split, shown.count)
        rendered, record = None, None
        if reconstructions is not None:
            shown.stage("pictures rendered elsewhere")
            given = read_reconstructions(reconstructions, found)
            rendered, record = given.pictures, given.record
        rng = np.random.default_rng(SEED)
        judged = evaluate_split(
            maps,
            other,
            found,
            others,
            networks,
            rng,
            shown,
            rendered,
            keeps_latents=save_latents,
        )
        result = BundleEvaluation(
            bundle_sha256=own.sha256,
            external=NO_EXTERNAL if other is None else other.bundle.sha256,
            recording=(recording or trials or Path()).resolve().name,
            responses=description(own.manifest.estimator),
            subject=own.manifest.subject,
            split=split,
            backend=model.backend,
            trials=len(found.betas),
            images=len(found.images),
            repeats=found.repeats,
            averaged_repeats=averaged_repeats(found.shown),
            single_trials=judged.single_trials,
            seed=SEED,
            rendered_elsewhere=record,
            reconstructions=judged.reconstructions,
            retrieval=judged.retrieval,
            encoding=judged.encoding,
            spread=judged.spread,
            spread_from=judged.spread_from,
            controls=judged.controls,
            networks=_records(networks),
            regions=found.rois_absent,
            versions=library_versions(),
        )
        if out is not None:
            shown.stage("write tables and figures")
            out.mkdir(parents=True, exist_ok=True)
            (out / EVALUATION).write_bytes(to_json(result))
            (out / LEDGER).write_bytes(judged.ledger.encode())
            (out / "evaluation.md").write_text(to_markdown(result), encoding="utf-8")
            write_figures(out, result, judged.found)
            if judged.latents is not None:
                visual = backbone_words(own.manifest.backbone)
                said = {"bundle_sha256": own.sha256, "split": split, "visual": visual}
                write_latents(out, found.names, judged.latents, said)
    print(to_json(result).decode() if as_json else to_markdown(result), end="")
    return result


def parse_weights(given: Sequence[str]) -> dict[NetworkName, Path]:
    """Read NAME=FILE.

    Raises:
        UsageError: No such network, or no file.
    """
    files: dict[NetworkName, Path] = {}
    known = {str(name): name for name in get_args(NetworkName)}
    for text in given:
        name, _, file = text.partition("=")
        if name not in known or not file:
            raise UsageError(
                f"--weights: expected NAME=FILE with a name of {', '.join(known)}, "
                f"found {text}"
            )
        files[known[name]] = Path(file)
    return files


def _records(networks: Mapping[str, FeatureNetwork | Absent]) -> list[NetworkRecord]:
    return [
        NetworkRecord(
            name=name,
            title=NETWORKS[name].title,
            weights=None if isinstance(network, Absent) else network.weights,
            sha256=None if isinstance(network, Absent) else network.sha256,
            absent=network if isinstance(network, Absent) else None,
        )
        for name, network in networks.items()
    ]
