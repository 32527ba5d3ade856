"""Read stored features as torch tensors: batch by batch for a training loop, or as one file for ``torch.load``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penultimate.store.feature_set import FeatureSet
from penultimate.store.interop.export import new_file

# Shapes: N rows, D feature dimensions, B batch.


def torch_batches(
    features: FeatureSet, num_rows: int, *, rows: NDArray[np.int64] | None = None, device: str = "cpu"
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield the rows and features of ``FeatureSet.batches``, as tensors (B, D) of the stored dtype on ``device``.

    On the CPU a tensor shares the memory that Zarr decoded into; to a GPU it is copied once. Only around rows that
    failed to decode is there one copy more, which closes the gap.
    """
    for rows_B, features_BD in features.batches(num_rows, rows=rows):
        yield rows_B, _tensor(features_BD).to(device)


def export_torch(features: FeatureSet, file: str | Path) -> Path:
    """Write a feature set as one dict of tensors and plain values, and return the path of the file.

    ``torch.load(file)`` returns, without running any code of the file's: ``features`` (N, D), ``labels`` (N,) or
    (N, K), and lists ``ids``, ``split``, ``class_names``; ``failed`` (id -> reason), ``metric``, ``key``. Raises
    InputError if ``file`` exists.
    """
    content = {
        "features": _tensor(features.features),
        "labels": _tensor(features.labels),
        "ids": features.ids.tolist(),
        "split": features.split.tolist(),
        "class_names": list(features.class_names),
        "failed": dict(features.failed),
        "metric": features.metric,
        "key": features.key.fields,
    }
    with new_file(file) as draft:
        torch.save(content, draft)
    return Path(file)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor that shares the array's memory; a read-only array, which torch does not have, is copied."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
