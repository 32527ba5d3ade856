"""FeatureSet: the stored features of one key with their labels, ids and splits, read lazily."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError
from penultimate.store.format.contents import no_contents
from penultimate.store.format.layout import SHARD_ROWS, Strings, variable_width
from penultimate.store.format.slices import slice_if_contiguous
from penultimate.store.key import FeatureKey
from penultimate.store.labels import PRESENT

if TYPE_CHECKING:
    import xarray

# Shapes: N decoded samples (rows of a FeatureSet), M samples of the ImageSet (rows on disk), D feature
# dimensions, K classes, B batch.


class RowArray(Protocol):
    """A two-dimensional array that is read by slices or numbers of rows: rows of a store, or an array in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Columns:
    """Labels, ids, splits and failures of every sample of the ImageSet, decoded or not, in its order."""

    labels_M: NDArray[np.int64] | NDArray[np.uint8]
    """(M,) int64 class indices, or for multi-label samples (M, K) uint8 with the values of ``store.labels``."""

    ids_M: Strings

    split_M: NDArray[np.str_]
    """``train``, ``val`` or ``test``."""

    failed_M: Strings
    """Reason why a sample could not be decoded; empty where it was."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """Features as the network gave them, one row for each decoded sample, in the ImageSet's order.

    Arrays are read on first access and kept; ``batches`` reads without keeping. A changed byte raises
    CorruptFeaturesError.
    """

    key: FeatureKey

    provenance: Mapping[str, Any]
    """JSON-able record of how the features were made: images, preprocess, weights, versions, counts, times."""

    class_names: tuple[str, ...]

    metric: str
    """The dataset's own metric: ``top1``, ``mean_per_class`` or ``map11``."""

    array: RowArray
    """The stored array (M, D): one row for every sample of the ImageSet, NaN where it failed."""

    read_columns: Callable[[], Columns]
    """Function that reads the columns; called at most once."""

    read_contents: Callable[[], NDArray[np.uint64] | None] = lambda: None
    """Function that reads the content digests (M, 3) of all samples; None where they are not kept."""

    shard_rows: int = SHARD_ROWS
    """Number of rows of ``array`` in one shard, which are read together."""

    num_failed: int | None = None
    """Number of samples without a row; None where only the columns tell. At 0 features are read without columns."""

    @classmethod
    def of(
        cls,
        features_ND: NDArray[np.floating[Any]],
        labels_N: NDArray[Any],
        split_N: Sequence[str] | NDArray[np.str_],
        *,
        ids_N: Sequence[str] | Strings | None = None,
        class_names: Sequence[str] | None = None,
        metric: str = "top1",
        dataset: str = "memory",
        backbone: str = "memory",
    ) -> "FeatureSet":
        """Build a FeatureSet from arrays in memory; its key names no stored group.

        ``labels_N`` is (N,) integers or (N, K) 0/1. Ids default to row numbers, class names to label numbers. Raises
        InputError if the lengths differ.
        """
        several = labels_N.ndim == 2
        num_classes = labels_N.shape[1] if several else int(labels_N.max(initial=-1)) + 1
        columns = Columns(
            labels_M=labels_N.astype(np.uint8) if several else labels_N.astype(np.int64),
            ids_M=variable_width([str(row) for row in range(len(labels_N))] if ids_N is None else ids_N),
            split_M=np.asarray(split_N, dtype=np.str_),
            failed_M=variable_width([""] * len(labels_N)),
        )
        lengths = {len(features_ND), len(labels_N), len(columns.split_M), len(columns.ids_M)}
        if features_ND.ndim != 2 or len(lengths) != 1:
            raise InputError(
                "expected features (N, D) with N labels, splits and ids, got features of shape "
                f"{features_ND.shape}, {len(labels_N)} labels, {len(columns.split_M)} splits, {len(columns.ids_M)} ids"
            )
        return cls(
            key=FeatureKey(
                dataset=dataset,
                backbone=backbone,
                images="",
                weights="",
                preprocess="",
                decoder="",
                precision="",
                dtype=str(features_ND.dtype),
            ),
            provenance={},
            class_names=tuple(class_names or (str(k) for k in range(num_classes))),
            metric=metric,
            array=features_ND,
            read_columns=lambda: columns,
        )

    @property
    def num_rows(self) -> int:
        """Return N, the number of decoded samples."""
        return len(self._decoded_N)

    @property
    def feature_dim(self) -> int:
        """Return D, the number of feature dimensions."""
        return self.array.shape[1]

    @cached_property
    def features(self) -> NDArray[Any]:
        """Return all features, (N, D) float32 or float16."""
        if self.num_rows == self.array.shape[0]:
            return np.asarray(self.array[:])
        features_ND = np.empty((self.num_rows, self.feature_dim), dtype=self.key.dtype)
        for rows_B, batch_BD in self.batches(16 * self.shard_rows):
            features_ND[rows_B] = batch_BD
        return features_ND

    @cached_property
    def labels(self) -> NDArray[np.int64] | NDArray[np.uint8]:
        """Return (N,) int64 class indices, or for multi-label samples (N, K) uint8 as in ``store.labels``."""
        return self._columns.labels_M[self._decoded_N]

    @cached_property
    def ids(self) -> Strings:
        """Return (N,) the relative path or tar key of each sample."""
        return self._columns.ids_M[self._decoded_N]

    @cached_property
    def split(self) -> NDArray[np.str_]:
        """Return (N,) the split of each sample: ``train``, ``val`` or ``test``."""
        return self._columns.split_M[self._decoded_N]

    @cached_property
    def contents(self) -> NDArray[np.uint64]:
        """Return the content digest of each sample, (N, 3) as in ``store.format.contents``.

        None of them is known in a set of format 1 and in one in memory.
        """
        contents_M3 = self.read_contents()
        return no_contents(self.num_rows) if contents_M3 is None else contents_M3[self._decoded_N]

    @cached_property
    def failed(self) -> Mapping[str, str]:
        """Return the reason, by id, for each sample that could not be decoded and has no row."""
        failed = np.flatnonzero(self._columns.failed_M != "")
        return dict(zip(self._columns.ids_M[failed].tolist(), self._columns.failed_M[failed].tolist(), strict=True))

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Return the increasing indices of the rows in these splits: ``rows("train", "val")``."""
        return np.flatnonzero(np.isin(self.split, splits))

    def labelled_rows(self, *splits: str) -> NDArray[np.int64]:
        """Return the rows in these splits that have a label; an image outside class folders has none (-1)."""
        rows = self.rows(*splits)
        return rows if self.labels.ndim == 2 else rows[self.labels[rows] >= 0]

    def class_texts(self, rows_B: NDArray[np.int64] | None = None) -> list[str]:
        """Return the class name of each row, or of some; several names separated by ``|``, "" for an unlabelled one."""
        labels = self.labels if rows_B is None else self.labels[rows_B]
        if labels.ndim == 2:
            return ["|".join(self.class_names[k] for k in np.flatnonzero(row_K == PRESENT)) for row_K in labels]
        return ["" if label < 0 else self.class_names[label] for label in labels.tolist()]

    def batches(
        self, num_rows: int, *, rows: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Stream (rows_B, features_BD), B <= ``num_rows``, rows increasing, with one batch or shard in memory.

        Every row (or every one of ``rows``, which must increase) comes exactly once. Only whole shards are read,
        each once, and none that holds no wanted row.
        """
        wanted = np.arange(self.num_rows) if rows is None else rows
        step = max(1, num_rows // self.shard_rows) * self.shard_rows
        disk_rows = self._decoded_N[wanted]
        starts = np.searchsorted(disk_rows, np.arange(0, self.array.shape[0] + step, step))
        for block, (first, stop) in enumerate(pairwise(starts.tolist())):
            if first == stop:
                continue
            block_MD = np.asarray(self.array[block * step : (block + 1) * step])
            for start in range(first, stop, num_rows):
                part = slice(start, min(start + num_rows, stop))
                yield wanted[part], block_MD[slice_if_contiguous(disk_rows[part] - block * step)]

    def rows_at(self, rows_B: NDArray[np.int64]) -> NDArray[Any]:
        """Return the features of some rows, (B, D), in any order; only what holds them is read, each part once."""
        return np.asarray(self.array[self._decoded_N[rows_B]])

    def to_xarray(self) -> "xarray.Dataset":
        """Return an xarray Dataset of ``features`` (sample, feature), ``labels``, ``split`` and the ids as coordinate.

        Features are read from the store when they are computed or loaded, and then kept by xarray. Raises
        UnavailableError where xarray is not installed.
        """
        from penultimate.store.interop.xarray_dataset import dataset_of

        return dataset_of(self)

    @cached_property
    def _columns(self) -> Columns:
        return self.read_columns()

    @cached_property
    def _decoded_N(self) -> NDArray[np.int64]:
        """Return the row on disk of each row of this set."""
        if self.num_failed == 0:
            return np.arange(self.array.shape[0])
        return np.flatnonzero(self._columns.failed_M == "")
