"""KnownRows: the rows of one embedding anywhere in a store, by content, each verified before it is referred to.

They come from the columns of complete sets and from the records of unfinished extractions. A set of format 1 has no
contents; it serves where its samples' contents are known by id and prove to be those its digest was made of.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.store.catalog import Catalog
from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.format import layout
from penultimate.store.format.contents import is_known, set_digest
from penultimate.store.format.documents import COMMIT
from penultimate.store.format.layout import Strings
from penultimate.store.format.reading import read_array
from penultimate.store.key import Embedding, FeatureKey
from penultimate.store.objects.claim import Claim, reference
from penultimate.store.objects.objects import Objects
from penultimate.store.objects.waiting import claim_when_free, remove_unused_lock
from penultimate.store.rows.record import OWN
from penultimate.store.rows.references import references
from penultimate.store.rows.row_index import RowIndex
from penultimate.store.rows.rows_folder import FolderRecords, RowsFolder
from penultimate.store.rows.source import RowSource
from penultimate.store.stored_columns import read_column

# Shapes: B samples looked up, M samples of a set.

ContentsOfIds = Callable[[Strings], NDArray[np.uint64]]
"""A function from ids to content digests, (M, 3), UNKNOWN for samples it does not know."""


class KnownRows:
    """Look rows up by content. Sources are claimed, so that nobody removes them, until ``release``."""

    def __init__(
        self,
        objects: Objects,
        embedding: Embedding,
        own: RowsFolder | None = None,
        *,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``own`` is the folder into which the caller writes, if it does."""
        self._objects = objects
        self._embedding = embedding
        self._log = log
        self._catalog = Catalog(objects)
        self._claims: list[Claim] = []
        self._own = own
        self._verified: dict[tuple[int, int], NDArray[np.bool_]] = {}
        """(source, shard) that is as it was written -> which of its rows are not finite."""
        self.index = RowIndex()
        self.sources: dict[int, RowSource] = {}
        """Sources by number, from 1; OWN is the writer's own folder."""
        self._own_not_finite = np.empty(0, np.int64)

    def gather(
        self,
        contents_of: ContentsOfIds | None = None,
        *,
        failures: bool,
        own_records: FolderRecords | None = None,
    ) -> None:
        """Take in every row of the embedding in the store; with ``failures`` also what could not be decoded.

        Without ``contents_of`` sets of format 1 are left out. ``own_records`` are those of ``own``, where the caller
        has read them already: an object store takes a request for each.

        A set or folder that is damaged, or being removed, is passed over, and that is said.
        """
        for path in self._catalog.set_paths():
            with self._passing_over(path):
                if self._catalog.is_complete(path):
                    self._take_set(path, contents_of, failures=failures)
                elif (plan := self._catalog.begun_format_1(path)) is not None:
                    self._take_format_1(path, plan, contents_of, failures=failures)
        for folder in self._catalog.rows_folders():
            if not folder.is_closed:
                is_own = self._own is not None and folder.path == self._own.path
                with self._passing_over(folder.path):
                    self._take_unfinished(folder, own_records if is_own else None, failures=failures)

    def find(self, contents_B3: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
        """Return source and row of each content, NO_SOURCE and -1 where there is none, and whether it is not finite.

        A shard is read, and its checksums verified, before a row of it is given out for the first time.
        """
        source_B, row_B = self.index.find(contents_B3)
        if not (row_B >= 0).any():
            return source_B, row_B, np.zeros(len(row_B), np.bool_)
        while self._drop_damaged(source_B, row_B):
            source_B, row_B = self.index.find(contents_B3)
        not_finite_B = np.zeros(len(row_B), np.bool_)
        for number in np.unique(source_B[source_B > OWN]).tolist():
            not_finite_B[source_B == number] = self._not_finite(number, row_B[source_B == number])
        if len(self._own_not_finite):
            not_finite_B |= (source_B == OWN) & np.isin(row_B, self._own_not_finite)
        return source_B, row_B, not_finite_B

    def add_own(
        self, contents_B3: NDArray[np.uint64], row_B: NDArray[np.int64], not_finite_B: NDArray[np.bool_]
    ) -> None:
        """Take in rows that were committed to the writer's own folder; all are ordered anew, so better many at once."""
        self.index.add_many(contents_B3, np.full(len(row_B), OWN, np.int32), row_B)
        self._own_not_finite = np.concatenate([self._own_not_finite, row_B[not_finite_B]])

    def path(self, number: int) -> str:
        """Return the folder of a source."""
        return self.sources[number].path

    def release(self) -> None:
        """Let others remove the sources."""
        for claim in self._claims:
            claim.release()
        self._claims = []
        for source in self.sources.values():
            remove_unused_lock(self._objects, f"{source.path}/{layout.LOCK}")

    def _passing_over(self, path: str) -> "_PassingOver":
        return _PassingOver(self._objects.where(path), self._log)

    def _take_set(self, path: str, contents_of: ContentsOfIds | None, *, failures: bool) -> None:
        content = self._catalog.set_content(path)
        if FeatureKey(**content["key"]).embedding.digest != self._embedding.digest:
            return
        if content["format"] == 1:
            self._take_format_1(path, content, contents_of, failures=failures)
            return
        contents_M3, row_M = (
            read_column(self._objects, path, name, content["checksums"]) for name in (layout.CONTENT, layout.ROW)
        )
        for found in references(content["sources"], row_M):
            if (number := self._number_of(found.source)) is not None:
                numbers = np.full(len(found.rows_R), number, np.int32)
                self.index.add_many(contents_M3[found.samples_R], numbers, found.rows_R)
        if failures and content["num_failed"]:
            failed_M = read_array(self._objects, f"{path}/{layout.FAILED}")
            failed = np.flatnonzero((failed_M != "") & is_known(contents_M3))
            self._take_failures(contents_M3[failed], failed_M[failed].tolist())

    def _take_format_1(
        self, path: str, content: Mapping[str, Any], contents_of: ContentsOfIds | None, *, failures: bool
    ) -> None:
        """Take a key of format 1, complete or begun, if the contents by id are all known and make its digest."""
        key = FeatureKey(**content["key"])
        if contents_of is None or key.embedding.digest != self._embedding.digest:
            return
        ids_M, labels_M, split_M = (read_array(self._objects, f"{path}/{name}") for name in ("ids", "labels", "split"))
        contents_M3 = contents_of(ids_M)
        if not (contents_M3 != 0).any(axis=1).all():
            return
        digest = set_digest(
            ids=ids_M.tolist(),
            labels_N=labels_M,
            split_N=split_M.tolist(),
            class_names=content["class_names"],
            contents_N3=contents_M3,
        )
        number = self._number_of({**content, "path": path}) if digest == key.images else None
        if number is None:
            return
        row_M = np.arange(len(ids_M))
        failed: dict[int, str] = {}
        committed = layout.committed_shards(self._objects.records(f"{path}/{layout.COMMITS}"))
        for shard in committed:
            failed |= self._failed_of_format_1(path, shard)
        if failures:
            self._take_failures(contents_M3[list(failed)], list(failed.values()))
        there_M = np.isin(row_M // content["shard_rows"], committed) & ~np.isin(row_M, list(failed))
        self.index.add_many(contents_M3[there_M], np.full(there_M.sum(), number, np.int32), row_M[there_M])

    def _failed_of_format_1(self, path: str, shard: int) -> dict[int, str]:
        record = COMMIT.read(
            self._objects.get(f"{path}/{layout.commit_object(shard)}") or b"", self._objects.where(path)
        )
        return {int(row): reason for row, reason in record["failed"].items()}

    def _take_unfinished(self, folder: RowsFolder, records: FolderRecords | None, *, failures: bool) -> None:
        """Take the rows that lie in ``folder`` itself; those it refers to are found where they are.

        ``records`` are its records, None if they are to be read.
        """
        plan = folder.plan_content()
        if plan is None or Embedding(**plan["embedding"]).digest != self._embedding.digest:
            return
        number = self._number_of(
            {"path": folder.path, "num_rows": plan["num_samples"], "shard_rows": plan["shard_rows"]}
        )
        records = folder.read_records() if records is None else records
        if records.damaged:
            names = ", ".join(layout.commit_object(number) for number in records.damaged[:3])
            self._log(
                f"warning: {len(records.damaged)} commit records of {self._objects.where(folder.path)} are damaged, "
                f"and what they tell of is not used again: {names}"
            )
        for record in records.valid:
            here_R = record.source_R == OWN
            if number is not None:
                rows = record.row_R[here_R]
                self.index.add_many(record.contents_R3[here_R], np.full(len(rows), number, np.int32), rows)
            if failures and record.failed:
                failed = np.array(list(record.failed)) - record.samples.start
                self._take_failures(record.contents_R3[failed], list(record.failed.values()))

    def _take_failures(self, contents_B3: NDArray[np.uint64], reasons: Sequence[str]) -> None:
        for (size, high, low), reason in zip(contents_B3.tolist(), reasons, strict=True):
            if high or low:
                self.index.failed[size, high, low] = reason

    def _number_of(self, about: Mapping[str, Any]) -> int | None:
        """Return the number of a source, claiming it at first; None where somebody has removed it."""
        if self._own is not None and about["path"] == self._own.path:
            return OWN
        for number, source in self.sources.items():
            if source.path == about["path"]:
                return number
        plan = f"{about['path']}/{layout.PLAN_OBJECT}"
        if not self._objects.exists(plan):
            return None
        self._claims.append(claim_when_free(self._objects, f"{about['path']}/{layout.LOCK}", reference()))
        if not self._objects.exists(plan):
            return None
        number = len(self.sources) + 1
        self.sources[number] = RowSource.of(self._objects, about)
        return number

    def _drop_damaged(self, source_B: NDArray[np.int32], row_B: NDArray[np.int64]) -> bool:
        """Verify the shards in which these rows are, each once; forget all rows of those that are damaged.

        Returns whether there was one: other sources may have the same rows.
        """
        any_damaged = False
        for number in np.unique(source_B[source_B > OWN]).tolist():
            source = self.sources[number]
            for shard in np.unique(row_B[source_B == number] // source.shard_rows).tolist():
                if (number, shard) in self._verified:
                    continue
                try:
                    self._verified[number, shard] = source.not_finite(shard)
                except CorruptFeaturesError as error:
                    self._log(f"warning: damaged rows are not used again, and their images are embedded anew: {error}")
                    self.index.drop(number, range(shard * source.shard_rows, (shard + 1) * source.shard_rows))
                    any_damaged = True
        return any_damaged

    def _not_finite(self, number: int, row_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these rows, of shards that were verified, are not finite."""
        not_finite_B = np.zeros(len(row_B), np.bool_)
        shard_B, within_B = np.divmod(row_B, self.sources[number].shard_rows)
        for shard in np.unique(shard_B).tolist():
            of_shard = shard_B == shard
            not_finite_B[of_shard] = self._verified[number, shard][within_B[of_shard]]
        return not_finite_B


class _PassingOver:
    """A context that says of a damaged set that it is not used, and goes on."""

    def __init__(self, where: str, log: Callable[[str], None]) -> None:
        self._where = where
        self._log = log

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, CorruptFeaturesError):
            return False
        self._log(f"warning: {self._where} is damaged and none of its rows are used again: {error}")
        return True
