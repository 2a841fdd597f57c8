"""z_v that was computed elsewhere: any number of tokens of any width, from a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from runtime.errors import RecordingError
from training.data.files import open_latents, sampled_sha256
from training.data.manifest import VisualSource


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
        self._latents = open_latents(file)
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

    def rows(self, names: Sequence[str]) -> Float[np.ndarray, "images tokens width"]:
        """Return z_v of pictures by name."""
        return np.asarray(self._latents[[self._row[name] for name in names]])
