"""What is closed at the end of a ``with`` block."""

import abc
from typing import TypeVar

# Not `Self`, which beartype refuses where it decorates functions one by one.
T = TypeVar("T")


class Closing(abc.ABC):
    """Base of whatever holds something that has to be given back."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give it back; nothing may be asked of this afterwards."""

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
