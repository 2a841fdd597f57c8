"""Quality measures of a recording's runs, as a server publishes them.

    python benchmarks/quality.py ../shared/data/haxby2001 [--ratio 1.5]

One line a run: the last volume's measures, the largest standardised DVARS, the spikes.
"""

import argparse
from pathlib import Path

from runtime.preprocess.quality import SPIKE_RATIO, RunQuality
from runtime.recording import open_recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--ratio", type=float, default=SPIKE_RATIO)
    given = parser.parse_args()
    recording = open_recording(given.recording)
    volumes = spikes = 0
    print("| run | tSNR | drift, % | DVARS, % | largest standardised | spikes |")
    print("|---|---|---|---|---|---|")
    for run in recording.runs:
        quality = RunQuality(recording.mask.voxels, given.ratio)
        said = [
            quality.update(index, recording.mask.select(volume))
            for index, volume in enumerate(run)
        ]
        largest = max(one.dvars_standardised or 0.0 for one in said)
        found = [index for index, one in enumerate(said) if one.is_spike]
        volumes, spikes = volumes + len(said), spikes + len(found)
        last = said[-1]
        print(
            f"| {run.run_id} | {last.tsnr:.0f} | {last.drift_percent:+.2f} | "
            f"{last.dvars_percent:.2f} | {largest:.2f} | "
            f"{', '.join(map(str, found)) or 'none'} |"
        )
    print(f"\n{spikes} spikes in {volumes} volumes, {100 * spikes / volumes:.2f} %.")


if __name__ == "__main__":
    main()
