"""What a run was done with, frozen at its start and named by one hash. Pure.

All that can change an answer, or what the participant meets, and nothing else: two runs
with the same hash were the same experiment.
"""

import hashlib

import msgspec
from msgspec import UNSET, structs

from bci_bridge.decoder import Decoder
from bci_bridge.header import LatePolicy, Pace, Shape
from bci_bridge.messages import RigNote, RunStart


class Configuration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The frozen facts of one run.

    A field with a default is left out of the JSON where it has it, so that a run
    without an overlay has the hash that it always had.
    """

    shape: Shape
    tr_s: float
    expected_volumes: int
    budget_s: float
    pace: Pace
    late: LatePolicy
    affine: tuple[float, ...] | None
    subject: str
    session: str
    task: str
    is_rehearsal: bool
    bundle_sha256: str
    gallery_sha256: str
    preprocessing_sha256: str
    backend: str
    precision: str
    threads: int | None
    abstain_below: float
    cpu: tuple[str, ...]
    versions: dict[str, str]
    overlay_sha256: str | None = None
    updates: bool = False
    slice_times_us: tuple[int, ...] = ()
    """When each slice is acquired: an estimator may fit its responses to that."""
    processors: int = 0
    """What a library chooses its number of threads from, and so the order of sums."""

    @classmethod
    def of(
        cls, start: RunStart, decoder: Decoder, rig: RigNote | None
    ) -> "Configuration":
        """Gather them from what begins a run, what answers it and what it runs on."""
        return cls(
            shape=start.shape,
            tr_s=start.tr_s,
            expected_volumes=start.expected_volumes,
            budget_s=start.budget_s,
            pace=start.pace,
            late=start.late,
            affine=start.affine,
            subject=start.subject,
            session=start.session,
            task=start.task,
            is_rehearsal=start.is_rehearsal,
            bundle_sha256=decoder.bundle_sha256,
            gallery_sha256=decoder.gallery_sha256,
            preprocessing_sha256=decoder.preprocessing_sha256,
            backend="" if rig is None else rig.backend,
            precision="" if rig is None else rig.precision,
            threads=None if rig is None else rig.threads,
            abstain_below=0.0 if rig is None else rig.abstain_below,
            cpu=() if rig is None else rig.cpu,
            versions={} if rig is None else rig.versions,
            overlay_sha256=decoder.overlay_sha256,
            updates=start.updates,
            slice_times_us=()
            if start.slice_times_us is UNSET
            else start.slice_times_us,
            processors=0 if rig is None else rig.processors,
        )

    def as_cited(self, sha256: str) -> "Configuration":
        """Give it as an earlier version froze it, if that is what a hash names.

        Args:
            sha256: As the outcomes of a recording cite it.
        """
        earlier = structs.replace(self, slice_times_us=(), processors=0)
        return earlier if earlier.sha256 == sha256 else self

    def differs_from(self, frozen: bytes) -> tuple[str, ...]:
        """Name the fields that another one, as JSON, has otherwise.

        Returns:
            None of them where it cannot be read.
        """
        try:
            other = msgspec.json.decode(frozen, type=Configuration)
        except msgspec.MsgspecError:
            return ()
        return tuple(
            name
            for name in self.__struct_fields__
            if getattr(self, name) != getattr(other, name)
        )

    @property
    def sha256(self) -> str:
        """Name the configuration: SHA-256 of its JSON with sorted keys."""
        text = msgspec.json.encode(self, order="sorted")
        return hashlib.sha256(text).hexdigest()
