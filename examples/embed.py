"""Decode and encode inside your own program: no server, no socket, no torch.

python examples/embed.py BUNDLE GALLERY
"""

import sys

import numpy as np

from runtime.answers import RunGeometry, Trial
from runtime.errors import NeuroFlowError
from runtime.live import open_decoder


def main(bundle_folder: str, gallery_folder: str) -> None:
    """Decode one trial of noise, and encode one picture of the gallery."""
    scanner = np.random.default_rng(0)

    with open_decoder(bundle_folder, gallery_folder, backend="ort") as decoder:
        # Decode: a run's volumes go in as they come, answers come out as they fall due.
        run = RunGeometry("run-1", decoder.shape, tr_s=1.0, expected_volumes=40)
        decoder.start_run(run)
        decoder.add_trial(Trial("trial-1", onset_s=15.0, duration_s=2.0))
        for volume_index in range(run.expected_volumes):
            volume = scanner.normal(1000, 20, run.shape).astype(np.float32)
            _, trials = decoder.add_volume(volume_index, volume)
            for trial in trials:
                answer = trial.answer
                print(
                    f"decoded {trial.trial_id} after volume {volume_index}: "
                    f"{answer.decision} {answer.label}"
                )
        decoder.end_run()

        # Encode: the response that a visual latent would cause, in percent signal.
        z_v = decoder.gallery.latents[0]
        z_n = decoder.model.encode_latent(z_v)
        response = decoder.bundle.feature_space().from_model(
            decoder.model.predict_voxels(z_n)
        )
        print(f"encoded {decoder.gallery.ids[0]}: {response.size} voxels")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/embed.py BUNDLE GALLERY")
    try:
        main(*sys.argv[1:])
    except NeuroFlowError as error:
        sys.exit(f"embed.py: {error}")
