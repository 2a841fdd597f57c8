"""z_v that was computed elsewhere: any number of tokens of any width, from a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from runtime.errors import RecordingError
from training.data.files import open_latents, sampled_sha256
from training.data.manifest import VisualSource

_AT_ONCE: Final = 64


class StoredLatents:
    """A .npy file with a row for every picture of a recording, sorted by name."""

    def __init__(self, file: Path, pictures: Iterable[str]) -> None:
        """Open the file.

        Args:
            file: float16 or float32 ``[pictures, tokens, width]``.
            pictures: Names of all that events show or retrieval may answer with.

        Raises:
            RecordingError: Another type, number of axes or number of rows.
        """
        self._file, self._latents = file, open_latents(file)
        self._row = {name: row for row, name in enumerate(sorted(pictures))}
        if len(self._latents) != len(self._row):
            raise RecordingError(
                f"{file}: rows: expected {len(self._row)}, one per picture that "
                "an event shows or the gallery has, sorted by name, "
                f"found {len(self._latents)}"
            )
        self.source = VisualSource(
            name="file", detail=f"{file.name}, sampled sha256 {sampled_sha256(file)}"
        )
        _, tokens, width = self._latents.shape
        self.shape: tuple[int, int] = (tokens, width)
        """Tokens and width."""
        self.dtype: str = self._latents.dtype.name
        """float16 or float32."""

    def require_finite(self) -> None:
        """Look at every value, some pictures at a time.

        Raises:
            RecordingError: One is not finite.
        """
        for first in range(0, len(self._latents), _AT_ONCE):
            bad = np.argwhere(~np.isfinite(self._latents[first : first + _AT_ONCE]))
            if bad.size:
                row, token, number = bad[0].tolist()
                raise RecordingError(
                    f"{self._file}: latents: expected finite values, found another at "
                    f"{[first + row, token, number]}"
                )

    def rows(self, names: Sequence[str]) -> Float[np.ndarray, "images tokens width"]:
        """Return z_v of pictures by name."""
        return np.asarray(self._latents[[self._row[name] for name in names]])
