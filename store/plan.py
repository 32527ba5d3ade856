"""Plan: the samples, their embedding and the layout on which all writers of an extraction must agree."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError
from penultimate.store.format import layout
from penultimate.store.format.contents import set_digest
from penultimate.store.format.digest import digest_of
from penultimate.store.format.layout import Strings
from penultimate.store.format.shard_codec import ShardCodec
from penultimate.store.key import Embedding, FeatureKey, folder_of

# Shapes: M samples of the ImageSet, K classes.


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What one extraction is to embed, and how it is laid out; known before any sample is read.

    The key of the set follows once the contents of all samples are known.
    """

    dataset: str
    embedding: Embedding
    ids_M: Strings
    labels_M: NDArray[np.int64] | NDArray[np.uint8]
    split_M: Strings
    class_names: tuple[str, ...]
    metric: str
    feature_dim: int

    shard_rows: int
    """Number of samples in a block and of rows in a shard: a multiple of the rows in a chunk, or fewer than those."""

    retry_failed: bool = False
    """Whether samples that failed before, with the contents they have now, are tried again."""

    def __post_init__(self) -> None:
        lengths = len(self.ids_M), len(self.labels_M), len(self.split_M)
        if len(set(lengths)) != 1 or 0 in lengths:
            raise InputError(f"expected as many labels and splits as ids and at least one, got {lengths}")
        if len(set(self.ids_M.tolist())) != self.num_samples:
            raise InputError(
                f"ids must be unique, got {self.num_samples - len(set(self.ids_M.tolist()))} repeated ones"
            )
        if (str(self.labels_M.dtype), self.labels_M.ndim) not in (("int64", 1), ("uint8", 2)):
            raise InputError(
                f"expected labels (M,) int64 or (M, K) uint8, got {self.labels_M.shape} {self.labels_M.dtype}"
            )
        if self.embedding.dtype not in ("float32", "float16"):
            raise InputError(f"features are stored as 'float32' or 'float16', got dtype {self.embedding.dtype!r}")
        if self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise InputError(f"shard_rows must be a multiple of {layout.CHUNK_ROWS} or less, got {self.shard_rows}")

    @property
    def num_samples(self) -> int:
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
            dtype=self.embedding.dtype,
        )

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks that hold all samples; as many shards hold their rows at most."""
        return layout.num_shards(self.num_samples, self.shard_rows)

    def samples(self, blocks: range) -> range:
        """Return the samples of some consecutive blocks."""
        return range(blocks.start * self.shard_rows, min(blocks.stop * self.shard_rows, self.num_samples))

    @property
    def folder(self) -> str:
        """Return the folder, below the store, in which the rows and the set are."""
        return folder_of(self.dataset, self.embedding.backbone)

    @cached_property
    def listing(self) -> str:
        """Return the digest of ids, labels, splits and class names, without contents."""
        return self._digest(None)

    @cached_property
    def job(self) -> str:
        """Return the digest of what is to be done, by which another run of the same extraction finds its rows."""
        retried = {"retry_failed": True} if self.retry_failed else {}
        return digest_of({"listing": self.listing, "embedding": self.embedding.digest} | retried)

    def key(self, contents_M3: NDArray[np.uint64]) -> FeatureKey:
        """Return the key of the set, given the content digest of every sample, (M, 3)."""
        return FeatureKey(dataset=self.dataset, images=self._digest(contents_M3), **asdict(self.embedding))

    def content(self) -> dict[str, Any]:
        """Return the JSON-able content that is written at the start and compared at a restart."""
        return {
            "format": layout.FORMAT_VERSION,
            "dataset": self.dataset,
            "embedding": asdict(self.embedding),
            "job": self.job,
            "listing": self.listing,
            "num_samples": self.num_samples,
            "feature_dim": self.feature_dim,
            "shard_rows": self.shard_rows,
            "metric": self.metric,
        }

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of the set that the plan holds, by name."""
        return {layout.IDS: self.ids_M, layout.LABELS: self.labels_M, layout.SPLIT: self.split_M}

    def _digest(self, contents_M3: NDArray[np.uint64] | None) -> str:
        return set_digest(
            ids=self.ids_M.tolist(),
            labels_N=self.labels_M,
            split_N=self.split_M.tolist(),
            class_names=self.class_names,
            contents_N3=contents_M3,
        )
