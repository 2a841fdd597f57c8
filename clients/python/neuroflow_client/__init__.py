"""Receive what a NeuroFlow RT server decodes: ``for outcome in Client(address)``."""

from neuroflow_client.client import Client
from neuroflow_client.errors import (
    ArgumentError,
    ClientError,
    GapError,
    KeyFileError,
    ProtocolError,
    RefusedError,
    SilenceError,
    UnsoundError,
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
    "ArgumentError",
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
    "UnsoundError",
    "Update",
    "VolumeOutcome",
]
