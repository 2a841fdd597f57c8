"""The other direction: what response an image not shown yet would cause.

Pure: an opened model and arrays in, arrays out.
"""

from typing import Protocol, runtime_checkable

import numpy as np

from runtime.arrays import Float32, UInt8
from runtime.patch_dct import PatchDct
from runtime.preprocess import FeatureSpace

Latent = Float32[np.ndarray, "tokens width"]
Voxels = Float32[np.ndarray, " voxels"]


@runtime_checkable
class EncodingModel(Protocol):
    """The part of `runtime.maps.Model` that encoding uses."""

    def encode_latent(self, z_v: Latent) -> Latent:
        """Carry a visual latent to the neural latent."""
        ...

    def predict_voxels(self, z_n: Latent) -> Voxels:
        """Return the normalised response that a neural latent implies."""
        ...


class Encoder:
    """Image to predicted response."""

    def __init__(
        self, model: EncodingModel, backbone: PatchDct, space: FeatureSpace
    ) -> None:
        """Prepare.

        Args:
            model: An opened model.
            backbone: The visual backbone that the model was trained on.
            space: The units in which the model sees voxels.
        """
        self._model, self._backbone, self._space = model, backbone, space

    def predict(self, image: UInt8[np.ndarray, "rows columns 3"]) -> Voxels:
        """Return the predicted trial beta in percent signal, in the mask's order.

        Raises:
            TensorMismatchError: The image has another size than the backbone's, or is
                no array of uint8.
            BackendError: An engine failed.
            UsageError: The model is closed.
        """
        return self.predict_latent(self._backbone.tokens_from_image(image))

    def predict_latent(self, z_v: Latent) -> Voxels:
        """Return the predicted trial beta of an image given as its visual latent.

        Raises:
            TensorMismatchError: Another shape or dtype.
            BackendError: An engine failed.
            UsageError: The model is closed.
        """
        features = self._model.predict_voxels(self._model.encode_latent(z_v))
        return self._space.from_model(features)
