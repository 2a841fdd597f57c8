"""What can go wrong between this program and the server."""

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from neuroflow_client.outcomes import AnyOutcome


class ClientError(Exception):
    """Base of all errors of this package; never raised itself."""


class ArgumentError(ClientError, ValueError):
    """What was asked for cannot be meant."""


class GapError(ClientError):
    """Outcomes are lost for good, and not to be had again.

    Attributes:
        run: The run that they belong to.
        first: Index of the first one lost.
        last: Index of the last one lost; None where the server has nothing of the run
            from the first one on.
    """

    def __init__(self, run: str, first: int, last: Optional[int]) -> None:
        if last is None:
            lost = f"from {first} on, found that the server does not have them"
        else:
            lost = f"{first} to {last}, found that the server no longer has them"
        super().__init__(f"run {run}: expected outcomes {lost}")
        self.run, self.first, self.last = run, first, last


class UnsoundError(ClientError):
    """A strict client was given an outcome that must not be acted upon.

    Attributes:
        outcome: It, with all that it says.
    """

    def __init__(self, outcome: "AnyOutcome") -> None:
        super().__init__(
            f"run {outcome.run}: outcome {outcome.outcome_index}: expected a sound "
            f"one, found {', '.join(outcome.faults)}"
        )
        self.outcome = outcome


class SilenceError(ClientError):
    """The server said nothing for too long, not even that it is alive.

    A run whose scanner has fallen silent is no silent server.
    """


class KeyFileError(ClientError):
    """A key file is missing, damaged, or readable by others."""


class RefusedError(ClientError):
    """The server refused this client."""


class ProtocolError(ClientError):
    """What arrived is not a message of this protocol, or was damaged on the way."""
