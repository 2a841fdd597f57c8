"""Every error that a user, a file, a peer or a driver can cause.

The leaf says whose fault it is. A message reads ``what: expected ..., found ...`` and,
where one is known, ends with the remedy. The same values are attributes.
"""


class NeuroFlowError(Exception):
    """Base of all errors of this project; never raised itself."""

    exit_status = 1


class UsageError(NeuroFlowError):
    """The command line or a call was wrong."""

    exit_status = 2


class ConfigError(NeuroFlowError):
    """A configuration holds an unknown, missing or impossible value."""

    exit_status = 2


class ArtifactError(NeuroFlowError):
    """A file or folder is missing, damaged or not what it claims to be."""


class BundleError(ArtifactError):
    """A bundle, gallery or overlay is not exactly what its manifest lists."""


class CheckpointError(ArtifactError):
    """A checkpoint is missing, damaged or belongs to another model."""


class RecordingError(ArtifactError):
    """A recording of volumes and events is missing, damaged or incomplete."""


class FrozenRunError(RecordingError):
    """A run began under another configuration than the one that is to go on with it."""


class ScanError(ArtifactError):
    """What a scanner wrote or sent is no volume, or no volume of this run."""


class TensorMismatchError(NeuroFlowError):
    """An array has another shape, dtype or content than the contract says."""

    def __init__(self, tensor: str, *, expected: str, found: str) -> None:
        super().__init__(f"{tensor}: expected {expected}, found {found}")
        self.tensor, self.expected, self.found = tensor, expected, found


class CalibrationError(NeuroFlowError):
    """A day's trials do not show that a calibration would help."""


class ParityError(NeuroFlowError):
    """An engine does not compute what the float64 reference computes."""


class PeerError(NeuroFlowError):
    """The other end of a socket sent what the protocol does not allow.

    Attributes:
        reason: Machine-readable reason, one of `bci_bridge.messages.RejectReason`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class BackendError(NeuroFlowError):
    """An engine library or driver is missing or failed."""


class GuardError(BackendError):
    """Nobody guards a server's sockets, or the guard lets strangers in.

    No restart mends that: the server must end, and let nobody in until it has.
    """
