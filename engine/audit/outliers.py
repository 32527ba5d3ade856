"""Outliers: the images that are farthest from all others."""

import math

import numpy as np
import pandas as pd

from penultimate.engine.audit.twins import Twins
from penultimate.store.feature_set import FeatureSet

FENCE = 1.5
"""Quartile ranges above the upper quartile beyond which a distance is an outlier's (Tukey 1977, section 2D)."""

LISTED = 0.01
"""Share of the images that is listed, at most ``MOST_LISTED``; those beyond the fence are marked among them."""

MOST_LISTED = 200


def outliers(features: FeatureSet, twins: Twins) -> pd.DataFrame:
    """Return the images whose tenth neighbour is farthest, the farthest first: 1 % of all, at most 200.

    Columns: ``image``, ``split``, ``label`` (class names), ``distance`` (cosine distance to the tenth neighbour, equal
    images counted once), ``typical`` (its median over the set), ``beyond_fence`` (whether it is beyond Tukey's fence).
    """
    distance_N = twins.kth_distance_N
    lower, median, upper = np.quantile(distance_N, [0.25, 0.5, 0.75])
    listed = min(math.ceil(LISTED * len(distance_N)), MOST_LISTED)
    far = np.argsort(-distance_N, kind="stable")[:listed]
    return pd.DataFrame(
        {
            "image": features.ids[far].tolist(),
            "split": features.split[far].tolist(),
            "label": features.class_texts(far),
            "distance": distance_N[far].astype(float),
            "typical": float(median),
            "beyond_fence": distance_N[far] > upper + FENCE * (upper - lower),
        }
    )
