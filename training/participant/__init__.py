"""The simulated participant: a brain, a scanner and a truth to be judged by.

Public: the table (`ParticipantParameters`), `generate_participant`,
`open_participant`, and the ceilings that a participant's truth implies.
"""

from training.participant.ceiling import (
    BetaModel,
    DecodingCeiling,
    Lapses,
    decoding_ceiling,
    encoding_ceiling,
    fit_beta_model,
    noise_ceiling,
)
from training.participant.folder import (
    Event,
    ParticipantFolder,
    RunFiles,
    Stimulus,
    open_participant,
)
from training.participant.generate import generate_participant
from training.participant.hybrid import generate_hybrid
from training.participant.parameters import (
    FROZEN_SHA256,
    PROPERTIES,
    ParticipantParameters,
    PropertyTarget,
    table_hash,
    tiny,
)

__all__ = [
    "FROZEN_SHA256",
    "PROPERTIES",
    "BetaModel",
    "DecodingCeiling",
    "Event",
    "Lapses",
    "ParticipantFolder",
    "ParticipantParameters",
    "PropertyTarget",
    "RunFiles",
    "Stimulus",
    "decoding_ceiling",
    "encoding_ceiling",
    "fit_beta_model",
    "generate_hybrid",
    "generate_participant",
    "noise_ceiling",
    "open_participant",
    "table_hash",
    "tiny",
]
