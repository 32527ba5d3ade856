"""Open a FeatureSet as an xarray Dataset: features, labels, ids and splits side by side, features read lazily."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import UnavailableError

if TYPE_CHECKING:  # an optional package; FeatureSet.to_xarray imports this module
    import xarray

    from penultimate.store.feature_set import FeatureSet

# Shapes: N samples, D feature dimensions.


def dataset_of(features: "FeatureSet") -> "xarray.Dataset":
    """Return the Dataset of a FeatureSet, whose ``features`` are read when they are computed or loaded.

    Raises UnavailableError where xarray is not installed.
    """
    try:
        import xarray
        from xarray.backends import BackendArray
        from xarray.core import indexing
    except ModuleNotFoundError as error:
        raise UnavailableError("to_xarray needs xarray, which is not installed: pip install xarray") from error

    class Rows(BackendArray):
        """The features (N, D), read by slices."""

        def __init__(self) -> None:
            self.shape = (features.num_rows, features.feature_dim)
            self.dtype = np.dtype(features.key.dtype)

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

        def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
            rows, dims = key
            wanted = np.atleast_1d(np.arange(self.shape[0])[rows])
            values = features.rows_at(wanted)
            return values[:, dims] if isinstance(rows, slice) else values[0, dims]

    label_dims = ("sample", "class")[: features.labels.ndim]
    return xarray.Dataset(
        {
            "features": (("sample", "feature"), indexing.LazilyIndexedArray(Rows())),
            "labels": (label_dims, features.labels),
            "split": ("sample", features.split),
        },
        coords={"ids": ("sample", features.ids.astype(object))},
        attrs={
            "key": features.key.fields,
            "class_names": list(features.class_names),
            "metric": features.metric,
            "failed": dict(features.failed),
        },
    )
