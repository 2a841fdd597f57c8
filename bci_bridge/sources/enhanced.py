"""Enhanced multi-frame images: one file for a volume, or for all volumes of a series.

What a frame is stands in its functional groups, and in the shared ones where it is the
same for all (PS3.3, C.7.6.16); the order of frames in the file means nothing. Pure.
"""

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from bci_bridge.sources.clock_text import seconds_of_day
from bci_bridge.sources.dicom_pixels import read_pixels, scaling_of
from bci_bridge.sources.dicom_values import Elements
from bci_bridge.sources.slices import Plane, Stack, plane_of, stacked
from runtime.errors import ScanError

DAY_S = timedelta(days=1).total_seconds()


@dataclass(frozen=True, slots=True)
class TimePoint:
    """One volume's frames."""

    time: int
    """From 1, as told or as counted."""
    frames: tuple[int, ...]


class Frames:
    """The frames of a file.

    Raises:
        ScanError: There is no group for each frame.
    """

    def __init__(self, elements: Elements) -> None:
        self._pixels = read_pixels(elements)
        self._elements = elements
        self._shared = elements.item("SharedFunctionalGroupsSequence")
        self._own = elements.items("PerFrameFunctionalGroupsSequence")
        if len(self._own) != len(self._pixels):
            raise ScanError(
                f"PerFrameFunctionalGroupsSequence: expected {len(self._pixels)}"
                f" items, found {len(self._own)}"
            )
        self._planes = [self._plane(frame) for frame in range(len(self._own))]

    @property
    def tr_ms(self) -> float | None:
        """Repetition time, where told."""
        timing = self._group(0, "MRTimingAndRelatedParametersSequence")
        return timing.number("RepetitionTime")

    def time_points(self) -> list[TimePoint]:
        """Sort the frames of magnitude images of the first echo by time.

        Where no time is told, the second frame at a place belongs to the second volume.
        """
        wanted = self._wanted()
        told = [
            self._group(frame, "FrameContentSequence").whole("TemporalPositionIndex")
            for frame in wanted
        ]
        is_told = len(set(told)) > 1 and None not in told
        places: dict[tuple[float, ...], int] = defaultdict(int)
        found: dict[int, list[int]] = defaultdict(list)
        for frame, time in zip(wanted, told, strict=True):
            place = tuple(np.round(self._planes[frame].position, 2).tolist())
            places[place] += 1
            found[time if is_told and time is not None else places[place]].append(frame)
        return [TimePoint(time, tuple(found[time])) for time in sorted(found)]

    def stack(self, point: TimePoint) -> Stack:
        """Put one volume together.

        Raises:
            ScanError: Its frames are no stack of even distances.
        """
        frames = point.frames
        thickness = self._group(frames[0], "PixelMeasuresSequence").number(
            "SliceThickness"
        )
        return stacked(
            [self._planes[frame] for frame in frames],
            [self._pixels[frame] for frame in frames],
            [self._scaling(frame) for frame in frames],
            thickness,
            self._times_s(frames),
        )

    def acquired_s(self, point: TimePoint) -> float | None:
        """Return when a volume began, in seconds of the scanner's day, where told."""
        times = self._seconds(point.frames)
        return None if times is None else min(times) % DAY_S

    def _wanted(self) -> list[int]:
        times = [
            self._group(frame, "MREchoSequence").number("EffectiveEchoTime")
            for frame in range(len(self._own))
        ]
        echoes = [echo for echo in times if echo is not None]
        first = min(echoes) if echoes else None
        return [
            frame
            for frame, echo in enumerate(times)
            if echo == first and not self._is_phase(frame)
        ]

    def _is_phase(self, frame: int) -> bool:
        kind = self._group(frame, "MRImageFrameTypeSequence")
        return kind.text("ComplexImageComponent") == "PHASE" or bool(
            {"P", "PHASE"}.intersection(kind.texts("FrameType"))
        )

    def _group(self, frame: int, name: str) -> Elements:
        own = self._own[frame].items(name)
        return own[0] if own else self._shared.item(name)

    def _plane(self, frame: int) -> Plane:
        return plane_of(
            self._group(frame, "PlanePositionSequence"),
            self._group(frame, "PlaneOrientationSequence"),
            self._group(frame, "PixelMeasuresSequence"),
        )

    def _scaling(self, frame: int) -> tuple[float, float]:
        return scaling_of(self._group(frame, "PixelValueTransformationSequence"))

    def _seconds(self, frames: tuple[int, ...]) -> list[float] | None:
        found = [
            seconds_of_day(
                self._group(frame, "FrameContentSequence").text(
                    "FrameAcquisitionDateTime"
                )
            )
            for frame in frames
        ]
        if any(one is None for one in found):
            return None
        times = [one for one in found if one is not None]
        if max(times) - min(times) > DAY_S / 2:
            times = [one + DAY_S if one < DAY_S / 2 else one for one in times]
        return times

    def _times_s(self, frames: tuple[int, ...]) -> list[float] | None:
        times = self._seconds(frames)
        # One time for all frames is the volume's, not that of its slices.
        return times if times is not None and len(set(times)) > 1 else None
