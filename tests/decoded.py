"""What is decoded, against the gallery: what a calibration is for, and never sees."""

import numpy as np


def identification(z_v, shown, name, retrieval):
    """The share of the gallery's other images that are less like z_v than the shown.

    Half of those that are as like, so that a decoder that says nothing has chance.
    """
    cosines = retrieval.cosines(z_v)
    own = retrieval.cosine(z_v, shown)
    others = np.array([one != name for one in retrieval.stimulus_ids])
    if not np.isfinite(own) or not others.any():
        return 0.0
    compared = cosines[others]
    return float(((compared < own) + 0.5 * (compared == own)).mean())
