"""What can go wrong between this program and the server."""


class ClientError(Exception):
    """Base of all errors of this package; never raised itself."""


class GapError(ClientError):
    """Outcomes are lost for good: announced, missed, and not to be had again.

    Attributes:
        run: The run that they belonged to.
        first: Index of the first one lost.
        last: Index of the last one known to be lost.
    """

    def __init__(self, run: str, first: int, last: int) -> None:
        super().__init__(
            f"run {run}: expected outcomes {first} to {last}, "
            "found that the server no longer has them"
        )
        self.run, self.first, self.last = run, first, last


class SilenceError(ClientError):
    """The server said nothing for too long, not even that it is alive."""


class KeyFileError(ClientError):
    """A key file is missing, damaged, or readable by others."""


class RefusedError(ClientError):
    """The server refused this client."""


class ProtocolError(ClientError):
    """What arrived is not a message of this protocol, or was damaged on the way."""
