"""`neuroflow calibrate`, and a server with its overlay: from the day to the outcome."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from bci_bridge import places
from bci_bridge.outcomes import TrialOutcome, VolumeOutcome
from bci_bridge.places import INPUTS, OUTCOMES
from bci_bridge.recording_reader import read_recording
from runtime import graphs
from runtime.answers import Trial
from runtime.bundle import open_bundle
from runtime.correction import InputCorrection
from runtime.errors import BundleError, UsageError
from runtime.estimator import VolumeEstimator
from runtime.gallery import open_gallery
from runtime.heads import Retrieval
from runtime.identification import mean_interval
from runtime.live import open_decoder
from runtime.model import open_model
from runtime.overlay import open_overlay
from runtime.overlay_writing import write_overlay
from runtime.predictions import predict
from runtime.recording import RecordedEvent, open_recording, timeline
from runtime.signing_keys import make_signing_key
from tests.decoded import identification
from tests.integration.test_replay_command import ENVIRONMENT, ROOT, command, said
from tests.linear_bundle import linear_session
from tests.sealed_folder import write_folder
from tests.spilt_log import spilt
from tests.unit.test_overlay import calibration
from training.features import geometry
from training.participant import open_participant
from training.participant.another_day import write_another_day
from verbs.calibrate import calibrate_day
from verbs.prepare_calibration import kept_in
from verbs.todays_trials import read_today

pytestmark = pytest.mark.slow

HEAVY = """
import json, sys, neuroflow
sys.argv = ["neuroflow", *json.loads(sys.argv[1])]
status = neuroflow.main()
print(json.dumps(sorted({"torch", "onnx", "export", "diffusers"} & set(sys.modules))))
sys.exit(status)
"""
CHANGE = {"angle": 1.2, "gain_sd": 0.5, "seed": 1}


@pytest.fixture(scope="module")
def session():
    return linear_session()


@pytest.fixture(scope="module")
def day(session, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "day"
    participant = open_participant(session / "participant")
    write_another_day(participant, out, ("calibration", "test"), **CHANGE)
    return out


def run_names(folder, split):
    runs = open_participant(folder).runs_of(split)
    return [run.bold.name.removesuffix("_bold.nii.gz") for run in runs]


def flags(session, day, out, *more):
    return (
        "calibrate", "--bundle", session / "bundle", "--gallery", session / "gallery",
        "--recording", day, "--out", out, "--threads", "1", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(session, day):
    """An overlay by the command line, signed; and what it said."""
    out = day.parent
    make_signing_key(out / "operator.key")
    line = (
        *flags(session, day, out / "overlay"),
        *("--runs", *run_names(day, "calibration")),
        *("--label", "day 2", "--sign", out / "operator.key", "--json"),
    )
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, json.dumps([str(one) for one in line])],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said_it, heavy = done.stdout.splitlines()
    return out / "overlay", json.loads(said_it) | {"heavy": json.loads(heavy)}


def judged(session, day, overlay):
    """Identification of the test runs' trials, which no calibration has seen."""
    with open_bundle(session / "bundle") as bundle, open_model(bundle) as model:
        gallery = open_gallery(session / "gallery")
        today = read_today(day, bundle, gallery, run_names(day, "test")).trials
        space, reader = bundle.feature_space(), model
        if overlay is not None:
            opened = open_overlay(overlay, bundle)
            space, reader = opened.space(bundle), opened.corrected(model)
        retrieval = Retrieval(
            gallery.latents, gallery.ids, gallery.labels,
            mean=bundle.latent_mean, temperature=1.0,
        )  # fmt: skip
        scores = [
            identification(
                reader.decode_latent(reader.encode_voxels(row)),
                today.latents[image], today.names[image], retrieval,
            )
            for row, image in zip(
                space.to_model(today.betas), today.image, strict=True
            )
        ]  # fmt: skip
    return np.array(scores), today.image


def test_a_changed_day_is_regained_on_runs_that_the_calibration_has_not_seen(
    session, day, made
):
    overlay, told = made
    unchanged, _ = judged(session, session / "participant", None)
    without, image = judged(session, day, None)

    regained, _ = judged(session, day, overlay)

    gain = mean_interval(regained - without, image)
    assert without.mean() < unchanged.mean() - 0.1
    assert gain.low > 0
    # It has told the truth about it, within the two intervals.
    assert told["gain"]["low"] < gain.high
    assert gain.low < told["gain"]["high"]
    assert (told["trials"], told["images"], told["unknown"]) == (60, 60, 0)
    assert told["runs"] == run_names(day, "calibration")
    assert told["seconds"] < 60


def test_an_unchanged_day_and_shuffled_pictures_are_refused_in_one_line(
    session, day, tmp_path
):
    first = session / "participant"
    unchanged = said(
        *flags(session, first, tmp_path / "a"),
        *("--runs", *run_names(first, "calibration")),
    )
    shuffled = tmp_path / "shuffled"
    participant = open_participant(first)
    write_another_day(participant, shuffled, ("calibration",), angle=0.0, gain_sd=0.0,
                      seed=0)  # fmt: skip
    (events,) = shuffled.glob("sub-*/func/*_events.tsv")
    rows = [line.split("\t") for line in events.read_text().splitlines()]
    names = [row[3:5] for row in rows[1:]]  # stim_file and stim_id
    for row, name in zip(rows[1:], [*names[7:], *names[:7]], strict=True):
        row[3:5] = name
    events.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    others = said(*flags(session, shuffled, tmp_path / "b"))

    for status, output, error in (unchanged, others):
        (line,) = [one for one in error.splitlines() if "calibration:" in one]
        assert (status, output) == (1, "")
        assert "expected a gain on held-out trials, its 95% interval above 0" in line
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_calibrating_never_meets_torch(made):
    _, told = made

    assert told["heavy"] == []


def before(session, day, out, *more):
    return (
        "prepare-calibration", "--bundle", session / "bundle", "--gallery",
        session / "gallery", "--pictures", day, "--out", out, "--threads", "1", *more,
    )  # fmt: skip


def of_calibration(day):
    """Names of what the calibration runs show."""
    runs = open_recording(day, run_names(day, "calibration")).runs
    return sorted({event.stimulus_id for run in runs for event in run.events})


@pytest.fixture(scope="module")
def predictions(session, day):
    """Interrupted after two images, and gone on with."""
    folder, names = day.parent / "predictions", of_calibration(day)
    told = [
        said(*before(session, day, folder, "--images", *names[:count], "--json"))
        for count in (2, len(names))
    ]
    assert [one[0] for one in told] == [0, 0], told
    counts = [json.loads(one[1]) for one in told]
    return folder, counts


def test_predictions_made_before_the_day_give_the_same_overlay(
    session, day, made, predictions, tmp_path
):
    overlay, told = made
    folder, counts = predictions

    status, output, error = said(
        *flags(session, day, tmp_path / "overlay", "--predictions", folder),
        *("--runs", *run_names(day, "calibration"), "--json"),
    )

    assert status == 0, error
    assert [(one["images"], one["computed"]) for one in counts] == [(2, 2), (60, 58)]
    again = json.loads(output)
    for name in ("normalisation", "screened", "correction", "gain", "penalty"):
        assert again[name] == told[name]
    with open_bundle(session / "bundle") as bundle:
        first, second = (
            open_overlay(f, bundle) for f in (overlay, tmp_path / "overlay")
        )
    np.testing.assert_array_equal(first.affine.scale, second.affine.scale)
    assert (first.correction is None) == (second.correction is None)


def test_with_predictions_the_flow_is_never_opened(
    session, day, predictions, tmp_path, monkeypatch
):
    opened = []

    def spy(backend, file, graph, **more):
        opened.append(graph.name)
        return original(backend, file, graph, **more)

    original = graphs.open_engine
    monkeypatch.setattr(graphs, "open_engine", spy)
    calibrate_day(
        session / "bundle", session / "gallery", day, tmp_path / "overlay",
        runs=tuple(run_names(day, "calibration")), predictions=predictions[0],
    )  # fmt: skip

    assert opened == ["encoder"]


def test_predictions_that_are_not_these_are_refused(
    session, day, predictions, tmp_path
):
    folder, _ = predictions
    few, other, short = (tmp_path / name for name in ("few", "other", "short"))
    two = of_calibration(day)[:2]
    assert said(*before(session, day, few, "--images", *two))[0] == 0
    with open_bundle(session / "bundle") as bundle:
        sha256 = bundle.sha256
        theirs = replace(kept_in(other, bundle), bundle_sha256="ab" * 32)
        theirs.keep(bundle.latent_mean, predict(Zero(), bundle.latent_mean))
    shutil.copytree(folder, short)
    file = sorted(short.iterdir())[0]
    file.write_bytes(file.read_bytes()[:-1])
    runs = ("--runs", *run_names(day, "calibration"))

    def refused(place):
        line = flags(session, day, tmp_path / "a", "--predictions", place)
        status, output, error = said(*line, *runs)
        assert (status, output) == (1, "")
        return error.splitlines()[-1]

    assert refused(few).startswith(
        f"neuroflow: {few}: expected predictions of 60 images, found none of "
    )
    assert refused(few).endswith(
        " and 57 others. Prepare them with prepare-calibration"
    )
    assert refused(other).endswith(
        f"expected a prediction of bundle {sha256[:12]}, found one of abababababab. "
        "Prepare another folder with this bundle"
    )
    assert said(*before(session, day, other, "--images", *two))[0] == 1
    assert refused(short).startswith(f"neuroflow: {file.name}: expected safetensors, ")
    assert refused(short).endswith(". Remove it, and prepare it again")
    assert not (tmp_path / "a").exists()


class Zero:
    """A model that expects nothing."""

    encode_latent = staticmethod(np.zeros_like)

    @staticmethod
    def predict_voxels(z_n):
        with open_bundle(linear_session() / "bundle") as bundle:
            return np.zeros(bundle.manifest.voxels.count, np.float32)


def test_a_preparations_mistakes_are_told_in_one_line(session, day, tmp_path):
    (tmp_path / "file").write_bytes(b"")

    unknown = said(*before(session, day, tmp_path / "a", "--images", "nobody"))
    place = said(*before(session, day, tmp_path / "file"))
    none = said(*flags(session, day, tmp_path / "b", "--predictions", tmp_path / "c"))

    assert unknown[0] == place[0] == none[0] == 2
    assert "images that the gallery or the pictures hold, found nobody" in unknown[2]
    assert f"--out: expected a folder, or none yet, found {tmp_path}/file" in place[2]
    assert (
        f"--predictions: expected a folder, found none at {tmp_path}/c. Make it with "
        "prepare-calibration"
    ) in none[2]
    assert not (tmp_path / "a").exists()


def test_an_overlay_is_inspected_and_verified(session, made):
    overlay, told = made

    status, output, _ = said("inspect", overlay, "--trust", overlay.parent)
    verified = said("verify", session / "bundle", "--overlay", overlay)

    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert lines["overlay"] == told["overlay_sha256"]
    assert lines["signature"].startswith("signed by operator")
    assert lines["label"] == "day 2"
    assert lines["holds"].startswith("normalisation")
    assert "95% interval" in lines["gain"]
    assert verified[0] == 0


def test_a_live_decoder_answers_with_the_overlay_as_the_parts_do(session, day, made):
    overlay, told = made
    (name, *_) = run_names(day, "test")
    run = open_recording(day, [name]).runs[0]
    with open_bundle(session / "bundle") as bundle, open_model(bundle) as model:
        opened = open_overlay(overlay, bundle)
        space, reader = opened.space(bundle), opened.corrected(model)
        betas = read_today(day, bundle, open_gallery(session / "gallery"), [name])
        rows = space.to_model(betas.trials.betas)
        wanted = [reader.decode_latent(reader.encode_voxels(row)) for row in rows]

    with open_decoder(
        session / "bundle", session / "gallery", overlay_folder=overlay
    ) as decoder:
        assert decoder.overlay_sha256 == told["overlay_sha256"]
        decoder.start_run(geometry(run))
        reports, volumes = [], run.volumes()
        for item in timeline(run):
            if isinstance(item, RecordedEvent):
                decoder.add_trial(_trial(item))
            else:
                reports += decoder.add_volume(item, volumes[item])[1]
        predicted = decoder.encoder().predict_latent(wanted[0])
        plain = decoder.bundle.feature_space()

    found = [report.z_v for report in reports if report.z_v is not None]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    # The other direction is in today's percent signal.
    assert not np.allclose(predicted, plain.from_model(space.to_model(predicted)))


def _trial(event):
    return Trial(event.trial_id, event.onset_s, event.duration_s)


@pytest.fixture(scope="module")
def served(session, day, made):
    """A rehearsal with the overlay, recorded; ends by itself."""
    overlay, _ = made
    log, mirror = day.parent / "log", day.parent / "rehearsed"
    participant = open_participant(session / "participant")
    write_another_day(participant, mirror, ("live",), **CHANGE)
    line = command(
        "serve", "--bundle", session / "bundle", "--gallery", session / "gallery",
        "--overlay", overlay, "--address", "tcp://127.0.0.1:*", "--threads", "1",
        "--log", log, "--rehearse", mirror, "--speed", "20", "--no-urgent",
    )  # fmt: skip
    done = subprocess.run(
        line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return log


def test_every_outcome_of_a_server_cites_the_overlay(served, made):
    _, told = made
    records = [one.envelope.record for one in read_recording(served / OUTCOMES)]
    outcomes = [r for r in records if isinstance(r, VolumeOutcome | TrialOutcome)]

    assert any(isinstance(one, TrialOutcome) for one in outcomes)
    assert {one.overlay_sha256 for one in outcomes} == {told["overlay_sha256"]}


def test_a_replay_proves_the_answers_with_this_overlay_and_no_other(
    session, served, made, tmp_path
):
    overlay, told = made
    with open_bundle(session / "bundle") as bundle:
        known = bundle.feature_space()
        other = calibration(bundle)
        rng = np.random.default_rng(0)
        factors = rng.standard_normal((2, 3, bundle.manifest.voxels.count))
        other = replace(
            other, space=known, correction=InputCorrection(*factors.astype("f4"))
        )
        write_overlay(tmp_path / "other", other, bundle, label="other",
                      created="2026-01-02", runs=())  # fmt: skip
    line = (
        "replay", served, "--bundle", session / "bundle", "--gallery",
        session / "gallery", "--verify",
    )  # fmt: skip

    proven = said(*line, "--overlay", overlay)
    refused = said(*line, "--overlay", tmp_path / "other")
    without = said(*line)

    assert proven[0] == 0, proven[2]
    assert " 0 differences" in proven[1]
    assert refused[0] == without[0] == 1
    wanted = f"overlay: expected {told['overlay_sha256']} as recorded, found "
    assert wanted in refused[2]
    assert f"{wanted}none. Give the overlay that answered." in without[2]


def test_a_servers_own_log_is_calibrated_on(session, served):
    with open_bundle(session / "bundle") as bundle:
        gallery = open_gallery(session / "gallery")
        logged = read_today(served, bundle, gallery, [])
        played = read_today(served.parent / "rehearsed", bundle, gallery, [])

    np.testing.assert_array_equal(logged.trials.betas, played.trials.betas)
    names = [[t.trials.names[i] for i in t.trials.image] for t in (logged, played)]
    assert names[0] == names[1]


def test_what_its_disk_did_not_take_is_calibrated_on_too(
    session, served, tmp_path, monkeypatch, capfd
):
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(places, "MEMORY", tmp_path / "memory")
    counts = {
        log: sum(1 for _ in read_recording(served / log)) for log in (INPUTS, OUTCOMES)
    }
    halves = {log: count // 2 for log, count in counts.items()}
    log = spilt(served, tmp_path / "log", halves)
    with open_bundle(session / "bundle") as bundle:
        gallery = open_gallery(session / "gallery")
        whole, found = (
            read_today(place, bundle, gallery, []) for place in (served, log)
        )

    np.testing.assert_array_equal(found.trials.betas, whole.trials.betas)
    assert found.runs == whole.runs
    assert "found 2 segments in memory alone" in capfd.readouterr().err


def test_a_server_refuses_an_overlay_that_is_not_its_bundles(session, made, tmp_path):
    overlay, _ = made
    write_folder(tmp_path / "bundle")

    refused = said(
        "serve", "--bundle", tmp_path / "bundle", "--gallery", session / "gallery",
        "--overlay", overlay, "--address", "tcp://127.0.0.1:*",
    )  # fmt: skip

    assert refused[0] == 1
    assert "overlay.json: bundle: expected " in refused[2]
    assert "Calibrate with this bundle" in refused[2]
    with open_bundle(tmp_path / "bundle") as bundle, pytest.raises(BundleError):
        open_overlay(overlay, bundle)


def test_mistakes_are_told_before_anything_is_estimated(session, day, made, tmp_path):
    overlay, _ = made

    there = said(*flags(session, day, overlay))
    no_run = said(*flags(session, day, tmp_path / "a", "--runs", "none"))
    no_key = said(*flags(session, day, tmp_path / "a", "--sign", tmp_path / "no.key"))
    (tmp_path / "file").write_bytes(b"")
    no_place = said(*flags(session, day, tmp_path / "file" / "b" / "a"))
    no_label = said(*flags(session, day, tmp_path / "a", "--label", "x" * 257))
    no_thread = said(*flags(session, day, tmp_path / "a", "--threads", "0"))

    assert there[0] == 2
    assert "--out: expected no such folder yet" in there[2]
    assert no_run[0] == 1
    assert "expected run none, found " in no_run[2]
    assert no_key[0] == 1
    assert no_place[0] == no_label[0] == no_thread[0] == 2
    assert f"--out: expected a folder at {tmp_path}/file, found a file" in no_place[2]
    assert "--label: expected at most 256 characters, found 257" in no_label[2]
    assert "threads: expected at least 1, found 0" in no_thread[2]
    assert not (tmp_path / "a").exists()


def test_a_bundle_for_volumes_is_refused(session, day):
    with open_bundle(session / "bundle") as bundle:
        manifest = msgspec.structs.replace(
            bundle.manifest, estimator=VolumeEstimator(), input_kind="volume"
        )
        other = replace(bundle, manifest=manifest)
        with pytest.raises(UsageError) as error:
            read_today(day, other, open_gallery(session / "gallery"), [])

    assert "expected a bundle that decodes trials" in str(error.value)
