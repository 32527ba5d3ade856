"""Contents holds what is known of the contents of a set's samples, from the digest cache and from reading each once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.digest_cache import UNKNOWN as NO_FINGERPRINT
from penultimate.engine.images.digest_cache import DigestCache, Entries, FileFingerprint
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.store.errors import PenultimateError
from penultimate.store.format.contents import UNKNOWN, Content, is_unknown, no_contents

# Shapes: N samples of a set, M of a subset, F = 4 fields of a FileFingerprint.

_GROUP = 256
"""Largest number of samples in one task: handing over a task takes about as long as digesting a small file."""


@dataclass(slots=True, eq=False)
class _Memory:
    """What is known of a whole set; all Contents of its subsets share it."""

    ids: Sequence[str]
    location: str
    cache: DigestCache | None
    contents_N3: NDArray[np.uint64]

    unsaved_NF: NDArray[np.int64] | None = None
    """Fingerprints of contents that are not in the cache yet, NO_FINGERPRINT elsewhere; None if there are none."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.contents_N3 = np.require(self.contents_N3, requirements="W")  # Ray sends arrays that cannot be written

    def __reduce__(self) -> tuple[Any, ...]:
        """Send what is known; who sends it also saves it."""
        return _Memory, (self.ids, self.location, self.cache, self.contents_N3)


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The content digests of a set's samples as far as they are known, as ``store.format.contents`` defines them.

    Several threads may use it at once. It can be pickled: the copy begins with what was known, and what it learns
    later reaches the digest cache, where there is one, but not the original.
    """

    _memory: _Memory

    _rows_N: NDArray[np.int64] | None = None
    """Row of each sample in the memory; None for all rows in order."""

    @classmethod
    def recall(cls, ids: Sequence[str], source: ImageSource, cache: DigestCache | None = None) -> "Contents":
        """Return the contents of the samples that ``source`` has, known where the cache has a file's fingerprint.

        Nothing is read: of each sample in the cache the source gives the fingerprint, on several threads. Raises
        InputError if the cache is damaged, and any PenultimateError of the source.
        """
        memory = _Memory(ids, source.location, cache, no_contents(len(ids)))
        if cache is not None:
            _recall(memory, cache.load(source.location, ids), source)
        return cls(memory)

    def of_rows(self, rows_M: NDArray[np.int64]) -> "Contents":
        """Return the contents of a subset, by its own indices; what is learned through either is known to both."""
        return Contents(self._memory, rows_M if self._rows_N is None else self._rows_N[rows_M])

    def known(self) -> NDArray[np.uint64]:
        """Return a copy (N, 3) of the content digests: UNKNOWN where nobody has read, UNREADABLE where that failed."""
        with self._memory.lock:
            contents_N3 = self._memory.contents_N3
            return contents_N3.copy() if self._rows_N is None else contents_N3[self._rows_N]

    def at(self, indices_B: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the (B, 3) content digests of some samples, UNKNOWN where nobody has read."""
        with self._memory.lock:
            return self._memory.contents_N3[indices_B if self._rows_N is None else self._rows_N[indices_B]]

    def is_sought(self, index: int) -> bool:
        """Return whether the content of sample ``index`` is unknown and there is a cache to keep it."""
        memory = self._memory
        return memory.cache is not None and not memory.contents_N3[self._row(index)].any()

    def remember(self, index: int, content: Content, fingerprint: FileFingerprint = NO_FINGERPRINT) -> Content:
        """Remember the content of sample ``index``, unless it is known already; return the one that is known now.

        ``fingerprint`` is that of the file before it was read; ``save`` puts the content into the cache under it.
        """
        row, memory = self._row(index), self._memory
        with memory.lock:
            size, high, low = memory.contents_N3[row].tolist()
            if (size, high, low) != UNKNOWN:
                return size, high, low
            memory.contents_N3[row] = content
            if fingerprint != NO_FINGERPRINT:
                if memory.unsaved_NF is None:
                    memory.unsaved_NF = np.full((len(memory.ids), len(NO_FINGERPRINT)), NO_FINGERPRINT, np.int64)
                memory.unsaved_NF[row] = fingerprint
            return content

    def complete(self, source: ImageSource) -> NDArray[np.uint64]:
        """Read from the set's own ``source`` each sample whose content is unknown, and return the (N, 3) contents.

        Several threads read, and few samples are in memory. A sample that cannot be read is UNREADABLE: it stays in
        the set, and decoding records why it failed. Whatever ends the call, the cache keeps what was found. Raises
        InputError if the cache cannot be written, and any PenultimateError of the source, such as a StoreError.
        """

        def read(index: int) -> None:
            try:
                source.read(index)  # which remembers the content
            except PenultimateError:  # not this sample's fault: its server does not answer
                raise
            except OSError:
                pass

        try:
            _on_threads(read, np.flatnonzero(is_unknown(self.known())), at_least=source.reads_at_once)
        finally:
            self.save()
        return self.known()

    def save(self) -> None:
        """Put the contents that the cache lacks into it, beside what other processes have put there meanwhile.

        Does nothing without a cache. Raises InputError if the cache is damaged or cannot be written.
        """
        memory = self._memory
        with memory.lock:
            found_NF, memory.unsaved_NF = memory.unsaved_NF, None
        if found_NF is None or memory.cache is None:
            return
        entries = memory.cache.load(memory.location, memory.ids)
        found_N = found_NF[:, 0] != NO_FINGERPRINT.number
        entries.fingerprints_NF[found_N] = found_NF[found_N]
        entries.contents_N3[found_N] = memory.contents_N3[found_N]
        memory.cache.save(memory.location, memory.ids, entries)

    def _row(self, index: int) -> int:
        return index if self._rows_N is None else int(self._rows_N[index])


def _recall(memory: _Memory, entries: Entries, source: ImageSource) -> None:
    """Make known what ``entries`` hold of files that are as they were."""

    def recall(row: int) -> None:
        try:
            if source.fingerprint(row) == tuple(entries.fingerprints_NF[row].tolist()):
                memory.contents_N3[row] = entries.contents_N3[row]
        except PenultimateError:
            raise
        except OSError:  # reading it says why
            pass

    _on_threads(recall, np.flatnonzero(entries.fingerprints_NF[:, 0] != NO_FINGERPRINT.number))


def _on_threads(function: Callable[[int], None], rows_M: NDArray[np.int64], *, at_least: int = 1) -> None:
    """Call ``function`` with each row, in groups of neighbours, on several threads; raise what it raises."""
    num_threads = max(at_least, min(16, 2 * usable_cores()))
    group = max(1, min(_GROUP, len(rows_M) // (4 * num_threads)))

    def call(first: int) -> None:
        for row in rows_M[first : first + group].tolist():
            function(row)

    with ThreadPoolExecutor(num_threads, thread_name_prefix="digest") as pool:
        for _ in prefetch_map(pool, call, range(0, len(rows_M), group), depth=2 * num_threads):
            pass
