"""Who is compared, on what, with which settings."""

from types import MappingProxyType
from typing import Final

from training.config import config_from_preset
from training.peers.contract import Peer
from training.peers.cortexflow import CortexFlow
from training.peers.lda import Lda
from training.peers.mlp import Mlp
from training.peers.ours import Ours
from training.peers.ridge import CategoryRidge, LatentRidge
from training.peers.sheet import Kind
from training.recorded import seeded

CORTEXFLOW: Final = "cortexflowx"
PEERS: Final = ("ours", "ridge", "ridge of categories", "LDA", "MLP", CORTEXFLOW)
"""In the order of the tables."""
ON_VOLUMES: Final = ("ours", "ridge", "LDA", "MLP")
"""Those that can be asked about volumes with categories alone."""


def recipes(kind: Kind, voxels: int) -> MappingProxyType[str, Peer]:
    """Return the peers that can be asked about a kind of participant, by name.

    On volumes with categories alone ridge is the one that `neuroflow evaluate` has, and
    nobody draws.
    """
    if kind == "haxby":
        ours = Ours(seeded(config_from_preset("haxby"), 0, voxels))
        named: dict[str, Peer] = {"ours": ours, "ridge": CategoryRidge()}
        return MappingProxyType(named | {"LDA": Lda(), "MLP": Mlp()})
    return MappingProxyType(
        {
            "ours": Ours(config_from_preset("demo", voxels=voxels)),
            "ridge": LatentRidge(),
            "ridge of categories": CategoryRidge(),
            "LDA": Lda(),
            "MLP": Mlp(),
            CORTEXFLOW: CortexFlow(),
        }
    )
