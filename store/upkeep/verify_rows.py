"""Verify the rows of an extraction: plan, commit records and every shard."""

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.format import layout
from penultimate.store.format.documents import CLOSED, COMMIT, PLAN
from penultimate.store.objects.objects import Objects
from penultimate.store.rows.record import CommitRecord
from penultimate.store.rows.rows_folder import RowsFolder
from penultimate.store.upkeep.inspection import Finding, Inspection
from penultimate.store.upkeep.removal import shards_in_use


def verify_rows(objects: Objects, folder: RowsFolder) -> list[Finding]:
    """Return the findings about a folder of rows, closed or not."""
    inspection = _RowsInspection(objects, folder.path)
    inspection.run(folder)
    return inspection.findings


class _RowsInspection(Inspection):
    def run(self, folder: RowsFolder) -> None:
        committed = folder.committed()
        if not committed and not self.objects.exists(f"{self.path}/{layout.PLAN_OBJECT}"):
            return  # ended before anything was committed
        if (plan := self.document(layout.PLAN_OBJECT, PLAN)) is None:
            return
        if self.objects.exists(f"{self.path}/{layout.CLOSED_OBJECT}"):
            self.document(layout.CLOSED_OBJECT, CLOSED)
        read = self.metadata_holds(layout.FEATURES, plan["array_metadata"])
        for number in committed:
            content = self.document(layout.commit_object(number), COMMIT)
            if content is None or (record := self._record(number, content, plan["job"])) is None:
                continue
            first = number * plan["shard_rows"]
            if read and record.num_rows:
                self.shard(number, range(first, first + record.num_rows), content["features"])
        unknown = folder.shards() - set(committed)
        if unknown and folder.is_closed:  # others are left of a removal that was interrupted
            for shard in sorted(unknown & self._in_use(folder)):
                self.add(layout.commit_object(shard), "is missing, and so nothing says what its shard held")

    def _in_use(self, folder: RowsFolder) -> set[int]:
        """Return the shards to which sets refer; all, if a set is too damaged to tell."""
        try:
            return shards_in_use(self.objects, self.path)[self.path]
        except CorruptFeaturesError:
            return folder.shards()

    def _record(self, number: int, content: dict[str, object], job: str) -> CommitRecord | None:
        try:
            record = CommitRecord.of(content)
        except (ValueError, KeyError) as error:
            self.add(layout.commit_object(number), f"is no commit record: {error}")
            return None
        if record.job != job or record.blocks.start != number:
            self.add(layout.commit_object(number), f"is of blocks {list(record.blocks)} of {record.job}")
            return None
        return record
