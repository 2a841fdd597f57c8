"""Receive what a NeuroFlow RT server decodes: ``for outcome in Client(address)``."""

from neuroflow_client.client import Client
from neuroflow_client.errors import (
    ClientError,
    GapError,
    KeyFileError,
    ProtocolError,
    RefusedError,
    SilenceError,
)
from neuroflow_client.outcomes import (
    AnyOutcome,
    RunEnded,
    ScoredStimulus,
    TrialOutcome,
    Update,
    VolumeOutcome,
)

__all__ = [
    "AnyOutcome",
    "Client",
    "ClientError",
    "GapError",
    "KeyFileError",
    "ProtocolError",
    "RefusedError",
    "RunEnded",
    "ScoredStimulus",
    "SilenceError",
    "TrialOutcome",
    "Update",
    "VolumeOutcome",
]
