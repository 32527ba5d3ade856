"""Plan: the key, samples and layout on which all writers of one key must agree."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError
from penultimate.store.format import layout
from penultimate.store.format.layout import Strings
from penultimate.store.format.shard_codec import ShardCodec
from penultimate.store.key import FeatureKey

# Shapes: M samples of the ImageSet, K classes.


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The key, samples and layout on which all writers of one key must agree, now and after a restart."""

    key: FeatureKey
    ids_M: Strings
    labels_M: NDArray[np.int64] | NDArray[np.uint8]
    split_M: Strings
    class_names: tuple[str, ...]
    metric: str
    feature_dim: int

    shard_rows: int
    """Number of rows in a shard: a multiple of the rows in a chunk, or fewer than those."""

    def __post_init__(self) -> None:
        lengths = len(self.ids_M), len(self.labels_M), len(self.split_M)
        if len(set(lengths)) != 1 or 0 in lengths:
            raise InputError(f"expected as many labels and splits as ids and at least one, got {lengths}")
        if len(set(self.ids_M.tolist())) != self.num_rows:
            raise InputError(f"ids must be unique, got {self.num_rows - len(set(self.ids_M.tolist()))} repeated ones")
        if (str(self.labels_M.dtype), self.labels_M.ndim) not in (("int64", 1), ("uint8", 2)):
            raise InputError(
                f"expected labels (M,) int64 or (M, K) uint8, got {self.labels_M.shape} {self.labels_M.dtype}"
            )
        if self.key.dtype not in ("float32", "float16"):
            raise InputError(f"features are stored as 'float32' or 'float16', got dtype {self.key.dtype!r}")
        if self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise InputError(f"shard_rows must be a multiple of {layout.CHUNK_ROWS} or less, got {self.shard_rows}")

    @property
    def num_rows(self) -> int:
        """Return M, the number of samples."""
        return len(self.ids_M)

    @property
    def chunk_rows(self) -> int:
        """Return the number of rows in one chunk inside a shard."""
        return min(layout.CHUNK_ROWS, self.shard_rows)

    @property
    def codec(self) -> ShardCodec:
        """Return what encodes the shards."""
        return ShardCodec(
            shard_rows=self.shard_rows,
            chunk_rows=self.chunk_rows,
            feature_dim=self.feature_dim,
            dtype=self.key.dtype,
        )

    @property
    def num_shards(self) -> int:
        """Return the number of shards that hold all rows."""
        return layout.num_shards(self.num_rows, self.shard_rows)

    def rows(self, shard: int) -> range:
        """Return the rows of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows))

    def ids_checksum(self, shard: int) -> str:
        """Return the checksum of the ids in one shard, which identifies its samples."""
        rows = self.rows(shard)
        return layout.values_checksum(self.ids_M[rows.start : rows.stop])

    def content(self) -> dict[str, Any]:
        """Return the JSON-able content that is written at the start and compared at a restart."""
        return {
            "format": layout.FORMAT_VERSION,
            "key": asdict(self.key),
            "num_rows": self.num_rows,
            "feature_dim": self.feature_dim,
            "shard_rows": self.shard_rows,
            "class_names": list(self.class_names),
            "metric": self.metric,
            "checksums": dict(self._checksums),
        }

    @cached_property
    def _checksums(self) -> dict[str, str]:
        """Return the checksum of each column; cached, because millions of samples take seconds."""
        return {
            layout.IDS: layout.values_checksum(self.ids_M),
            layout.LABELS: layout.values_checksum(self.labels_M),
            layout.SPLIT: layout.values_checksum(self.split_M),
        }
