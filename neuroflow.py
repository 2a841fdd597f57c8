"""The command line. It parses; each verb lives in `verbs/` and is imported when called.

Exit status: 0 done, 1 failed with one clear line on standard error, 2 wrong usage.
"""

import signal
import sys

# Before what takes a while to import; `verbs.ending.until_stopped` hears them again.
if sys.argv[1:2] == ["serve"]:
    signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    )

from pathlib import Path
from typing import Literal

import tyro

from verbs.bench_commands import bench
from verbs.bundle_commands import compile as compile_engines
from verbs.bundle_commands import export, inspect, verify
from verbs.prepare_commands import prepare_bids, prepare_nsd
from verbs.rig_commands import (
    calibrate,
    doctor,
    keys,
    play,
    prepare_calibration,
    serve,
    sign,
    watch,
)
from verbs.send_commands import sources

app = tyro.extras.SubcommandApp()

Stage = Literal["vae", "flow"]
Backend = Literal["ort", "openvino"]
Precision = Literal["fp32", "bf16", "fp16"]
ExportFormat = Literal["bids", "hdf5", "nifti"]


@app.command
def demo(
    *,
    out: Path = Path("out/demo"),
    recording: Path | None = None,
    seed: int = 0,
    backend: Backend = "ort",
    speed: float | None = None,
    json: bool = False,
) -> None:
    """Go the whole way on one machine: train, export, serve, play a scanner, report.

    Args:
        out: Folder for everything that is made; must not exist or be a former demo.
        recording: Real fMRI instead of the simulated participant (a Haxby folder).
        seed: Of the participant and of training.
        backend: Engine library that serves.
        speed: Live pace; 1 is real time. Default: 1 simulated, 10 for a recording.
        json: Print the summary as JSON at the end.
    """
    from verbs.demo import run_demo

    run_demo(out, recording, seed=seed, backend=backend, speed=speed, as_json=json)


@app.command
def simulate(
    *, out: Path, seed: int = 0, tiny: bool = False, residuals: Path | None = None
) -> None:
    """Write a simulated participant as a BIDS folder with its truth.

    Args:
        out: The folder to write; must not exist.
        seed: Participants of different seeds are different people.
        tiny: A few runs only, for trying things out.
        residuals: A Haxby folder: a hybrid, known signal on the noise of real runs.
    """
    from verbs.simulate import simulate_participant

    simulate_participant(out, seed=seed, tiny=tiny, residuals=residuals)


app.command(prepare_bids)
app.command(prepare_nsd)


@app.command
def train(
    stage: tyro.conf.Positional[Stage],
    /,
    *,
    out: Path,
    recording: Path | None = None,
    trials: Path | None = None,
    vae: Path | None = None,
    preset: str | None = None,
    config: Path | None = None,
    estimator: Path | None = None,
    subject: str | None = None,
    dry_run: bool = False,
    resume: bool = True,
    precision: Precision = "fp32",
    micro_batch: int | None = None,
    checkpoint_activations: bool = False,
    compile: bool = False,  # noqa: A002  # the flag's name
    augment: int | None = None,
    encoder: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Train a stage: `vae` (NeuroVAE) first, then `flow` on its frozen latents.

    Args:
        stage: Which of the two.
        out: Folder of the checkpoint; an interrupted run goes on from there.
        recording: A BIDS folder with events, mask and pictures.
        trials: Prepared trials instead (see prepare-nsd and prepare-bids).
        vae: The checkpoint of stage 1; needed for `flow`.
        preset: Named configuration; demo where no --config is given either.
        config: A configuration as JSON instead of a preset (see --dry-run).
        estimator: How betas are estimated, as JSON; the default is documented.
        subject: Whose runs, where the folder has several participants (01 or sub-01).
        dry_run: Print the resolved configuration as JSON and stop.
        resume: Go on from an interrupted run in `out`.
        precision: Of matrix products; weights and losses are fp32 in any case.
        micro_batch: Rows at a time, to save memory; loss and gradient are the same.
        checkpoint_activations: Compute activations twice instead of keeping them.
        compile: Run the model through torch.compile.
        augment: Synthetic trials to add, of pictures that no trial shows.
        encoder: With --augment, a folder with `vae` and `flow` trained without.
        pictures: With --augment, a folder of pictures or z_v as .npy; none of the test.
    """
    from training.compute import Compute
    from verbs.synthetic import augmentation
    from verbs.train import train_stage

    train_stage(
        stage,
        out,
        recording=recording,
        trials=trials,
        vae=vae,
        preset=preset,
        config_file=config,
        estimator_file=estimator,
        subject=subject,
        dry_run=dry_run,
        resume=resume,
        compute=Compute(
            precision=precision,
            micro_batch=micro_batch,
            checkpoint_activations=checkpoint_activations,
            compile=compile,
        ),
        augment=augmentation(augment, encoder, pictures),
    )


@app.command
def import_checkpoint(
    *, neurovae: Path, xfm: Path, subject: Literal[1, 2, 5, 7], out: Path
) -> None:
    """Turn the authors' released files into the checkpoints OUT/vae and OUT/flow.

    Args:
        neurovae: Their last.pth.
        xfm: Their last.pt; its averaged weights are taken.
        subject: Whose models they are, by NSD's number.
        out: The folder to write; must not exist, or be empty.
    """
    from verbs.import_checkpoint import import_checkpoint as write

    write(neurovae, xfm, subject, out)


app.command(export)
app.command(compile_engines)
app.command(verify)
app.command(inspect)
app.command(bench)
app.command(sign)
app.command(prepare_calibration)
app.command(calibrate)
app.command(serve)
app.command(sources, name="send", help="Send what comes out of a scanner to a server.")
app.command(play)
app.command(watch)
app.command(keys)


@app.command
def replay(
    recording: tyro.conf.Positional[Path],
    /,
    *,
    bundle: Path,
    gallery: Path,
    overlay: Path | None = None,
    backend: Backend | None = None,
    verify: bool = False,
    skip_damaged: bool = False,
    json: bool = False,
) -> None:
    """Put a server's recording through the decoder again and compare the answers.

    Args:
        recording: The folder that `serve --log` wrote.
        bundle: The bundle that answered.
        gallery: The gallery that it chose from.
        overlay: The day's overlay that it answered with; none by default.
        backend: Engine library; by default the recorded one.
        verify: Prove every answer bit for bit, times excepted, or fail.
        skip_damaged: Go on where messages are lost, and say what is left out.
        json: Print JSON.
    """
    from verbs.replay import replay_recording

    replay_recording(
        recording,
        bundle,
        gallery,
        overlay=overlay,
        backend=backend,
        verify=verify,
        skip_damaged=skip_damaged,
        as_json=json,
    )


@app.command
def verify_recording(
    recording: tyro.conf.Positional[Path],
    /,
    *,
    trust: tyro.conf.UseAppendAction[tuple[Path, ...]] = (),
    json: bool = False,
) -> None:
    """Hold a recording against the chain of its hashes, and say who signed that.

    Args:
        recording: The folder that `serve --log` wrote.
        trust: NAME.pub or a folder of them; one of these must have signed all of it.
        json: Print JSON.
    """
    from verbs.verify_recording import verify_recording

    verify_recording(recording, trust=trust, as_json=json)


@app.command
def export_recording(
    recording: tyro.conf.Positional[Path],
    /,
    *,
    out: Path,
    format: ExportFormat,  # noqa: A002  # the flag's name
    run: str | None = None,
    skip_damaged: bool = False,
    json: bool = False,
) -> None:
    """Write a server's recording as NIfTI, a BIDS derivative or HDF5.

    Args:
        recording: The folder that `serve --log` wrote.
        out: The folder to write; must not exist, or be empty.
        format: What other software reads.
        run: One run, by name; all of them by default.
        skip_damaged: Go on where messages are lost, and list what is left out.
        json: Print JSON.
    """
    from verbs.export_recording import export_recording as write

    write(recording, out, format, run=run, skip_damaged=skip_damaged, as_json=json)


@app.command
def evaluate(
    *,
    recording: Path | None = None,
    trials: Path | None = None,
    bundle: Path | None = None,
    split: str = "test",
    external: Path | None = None,
    reconstructions: Path | None = None,
    save_latents: bool = False,
    weights: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    download: bool = False,
    backend: Backend = "ort",
    combine: tuple[Path, ...] = (),
    leave_one_run_out: bool = False,
    seeds: int = 3,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Compute the papers' metrics of a bundle, or compare with ridge run by run.

    Args:
        recording: A BIDS folder with events and pictures; a Haxby folder for
            --leave-one-run-out.
        trials: With --bundle, prepared trials instead of a recording.
        bundle: The bundle to judge.
        split: With --bundle, whose trials.
        external: With --bundle, one of another training that decodes its predictions,
            and whose predictions it decodes.
        reconstructions: With --bundle, a folder of pictures that were rendered
            elsewhere from its latents, one an image, named by it.
        save_latents: With --bundle and --out, write the latents that these are rendered
            from.
        weights: With --bundle, NAME=FILE of a feature network; may be repeated.
        download: With --bundle, let torchvision download the weights that it has.
        backend: With --bundle, the engine library.
        combine: Folders that --bundle --out wrote, one a participant: their mean, with
            intervals over participants and images.
        leave_one_run_out: Each run in turn is the test, causal and offline.
        seeds: With --leave-one-run-out, trainings per fold, averaged.
        out: File for the result as JSON; with --bundle, a folder for JSON, tables
            and figures.
        json: Print JSON instead of tables.
    """
    of_bundles = {
        "--external": external,
        "--reconstructions": reconstructions,
        "--save-latents": save_latents,
        "--weights": weights,
        "--download": download,
    }
    given = [flag for flag, value in of_bundles.items() if value]
    if combine:
        from verbs.combine_evaluations import combine_evaluations

        others = (bundle, recording, trials, leave_one_run_out, *given)
        combine_evaluations(combine, out=out, as_json=json, is_alone=not any(others))
        return
    if bundle is not None and not leave_one_run_out:
        from verbs.evaluate_bundle import evaluate_bundle

        evaluate_bundle(
            bundle,
            recording=recording,
            trials=trials,
            split=split,
            out=out,
            weights=weights,
            download=download,
            external=external,
            reconstructions=reconstructions,
            save_latents=save_latents,
            backend=backend,
            as_json=json,
        )
        return
    from verbs.evaluate import evaluate_recording

    evaluate_recording(
        recording,
        has_trials=trials is not None,
        leave_one_run_out=leave_one_run_out,
        has_bundle=bundle is not None,
        of_bundles=given,
        seeds=seeds,
        out=out,
        as_json=json,
    )


app.command(doctor)


def main() -> int:
    """Run a verb; return the exit status."""
    from verbs.ending import exit_status

    return exit_status(
        lambda: app.cli(
            prog="neuroflow",
            description="Decode and encode brain activity during MRI, in real time.",
        ),
        is_lasting=sys.argv[1:2] == ["serve"],
    )


if __name__ == "__main__":
    sys.exit(main())
