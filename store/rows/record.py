"""CommitRecord: what became of the samples of some blocks, written once their features are safe."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Shapes: R samples of the record's blocks.

OWN = 0
"""Source of a row that lies in the same folder as the record."""

NO_SOURCE = -1
"""Source of a sample that failed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CommitRecord:
    """Contents and rows of the samples of consecutive blocks, of which some rows are new and lie in one shard."""

    job: str
    """Digest of the extraction, ``Plan.job``."""

    blocks: range
    """The first is also the number of the shard, and of the record."""

    samples: range

    num_rows: int
    """Number of rows in the shard; without any there is no shard."""

    contents_R3: NDArray[np.uint64]
    """Content digest of each sample, as ``store.format.contents`` has it."""

    sources: tuple[str, ...]
    """Folders below the store that hold rows embedded before."""

    source_R: NDArray[np.int32]
    """OWN, NO_SOURCE, or for a row that was there before 1 + its index in ``sources``."""

    row_R: NDArray[np.int64]
    """Row of each sample in its source, -1 where it failed."""

    failed: Mapping[int, str]
    """Sample -> the reason why it has no features."""

    num_not_finite: int
    """Number of samples whose features hold NaN or infinity."""

    seconds: float
    """Seconds from the first of the new rows to the last."""

    def refers_only_to(self, rows: range) -> bool:
        """Return whether all own rows that it refers to are among ``rows``."""
        own = self.row_R[self.source_R == OWN]
        return bool(((own >= rows.start) & (own < rows.stop)).all())

    def content(self) -> dict[str, Any]:
        """Return the record as values that JSON can hold; arrays are compressed and in base64."""
        return {
            "job": self.job,
            "blocks": [self.blocks.start, self.blocks.stop],
            "samples": [self.samples.start, self.samples.stop],
            "num_rows": self.num_rows,
            "content": _packed(self.contents_R3, "<u8"),
            "sources": list(self.sources),
            "source": _packed(self.source_R, "<i4"),
            "row": _packed(self.row_R, "<i8"),
            "failed": {str(sample): self.failed[sample] for sample in sorted(self.failed)},
            "num_not_finite": self.num_not_finite,
            "seconds": self.seconds,
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "CommitRecord":
        """Return the record that ``content`` is of."""
        return cls(
            job=content["job"],
            blocks=range(*content["blocks"]),
            samples=range(*content["samples"]),
            num_rows=content["num_rows"],
            contents_R3=_unpacked(content["content"], "<u8").reshape(-1, 3),
            sources=tuple(content["sources"]),
            source_R=_unpacked(content["source"], "<i4"),
            row_R=_unpacked(content["row"], "<i8"),
            failed={int(sample): reason for sample, reason in content["failed"].items()},
            num_not_finite=content["num_not_finite"],
            seconds=content["seconds"],
        )


def _packed(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, dtype).tobytes(), 1)).decode()


def _unpacked(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)
