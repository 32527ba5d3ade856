"""Balance: how many images of each class each split has, and which classes one lacks."""

import numpy as np
import pandas as pd

from penultimate.engine.audit.twins import SPLITS
from penultimate.store.feature_set import FeatureSet
from penultimate.store.labels import PRESENT

UNLABELLED = "(no label)"
"""Name under which images without a label are counted."""


def class_balance(features: FeatureSet) -> pd.DataFrame:
    """Return the number of images of each class in each split, in the order of the classes.

    Columns: ``class``, one for each split that has images, ``total``, ``share`` (of all images), ``lacking`` (names of
    the splits without the class, separated by commas). Images with several labels count in each; a last row counts
    those without a label, if there are any.
    """
    labels, names = features.labels, [*features.class_names]
    if labels.ndim == 2:
        has_NK = labels == PRESENT
        has_NK = np.concatenate([has_NK, ~has_NK.any(1, keepdims=True)], axis=1)
        counts = {split: has_NK[features.split == split].sum(0) for split in SPLITS}
    else:
        shifted_N = np.where(labels < 0, len(names), labels)
        counts = {split: np.bincount(shifted_N[features.split == split], minlength=len(names) + 1) for split in SPLITS}
    table = pd.DataFrame({split: count for split, count in counts.items() if (features.split == split).any()})
    lacking = table.apply(lambda row: ", ".join(split for split in table.columns if row[split] == 0), axis=1)
    table.insert(0, "class", [*names, UNLABELLED])
    table["total"] = sum(counts.values())
    table["share"] = table["total"] / max(features.num_rows, 1)
    table["lacking"] = lacking
    return table if table["total"].iloc[-1] else table.iloc[:-1]
