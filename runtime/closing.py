"""What is closed at the end of a ``with`` block."""

import abc
from typing import Self


class Closing(abc.ABC):
    """Base of whatever holds something that has to be given back."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give it back; nothing may be asked of this afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
