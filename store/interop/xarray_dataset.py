"""Open a FeatureSet as an xarray Dataset: features, labels, ids and splits side by side, features read lazily."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import UnavailableError
from penultimate.store.key import FeatureKey

if TYPE_CHECKING:  # an optional package
    import xarray

# Shapes: N samples, B of them that are wanted, D feature dimensions.


class _Features(Protocol):
    """A FeatureSet, as far as it is needed here; its ``to_xarray`` imports this module."""

    @property
    def key(self) -> FeatureKey: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def metric(self) -> str: ...

    @property
    def num_rows(self) -> int: ...

    @property
    def feature_dim(self) -> int: ...

    @property
    def labels(self) -> NDArray[Any]: ...

    @property
    def split(self) -> NDArray[Any]: ...

    @property
    def ids(self) -> NDArray[Any]: ...

    @property
    def failed(self) -> Mapping[str, str]: ...

    def rows_at(self, rows_B: NDArray[np.int64], /) -> NDArray[Any]: ...


def dataset_of(features: _Features) -> "xarray.Dataset":
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
