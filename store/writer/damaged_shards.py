"""Redo what a killed writer committed and something has damaged since, before its extraction is resumed."""

from collections.abc import Callable

from penultimate.store.errors import CorruptFeaturesError
from penultimate.store.objects.objects import Objects
from penultimate.store.plan import Plan
from penultimate.store.rows.record import OWN, CommitRecord
from penultimate.store.rows.rows_folder import FolderRecords, RowsFolder
from penultimate.store.rows.source import RowSource
from penultimate.store.upkeep.removal import shards_in_use


def drop_damaged(
    objects: Objects, plan: Plan, folder: RowsFolder, blocks: range, *, log: Callable[[str], None]
) -> FolderRecords:
    """Remove shards of these blocks that are not what was written, so that their images are embedded again; say so.

    Returns the records of all blocks, without those that were removed. Each committed shard is read once. Blocks with a
    sample that is equal to one of a damaged shard go with it. Raises CorruptFeaturesError where others refer to the
    rows, who would get those of other images. The caller has claimed the blocks.
    """
    read = folder.read_records()
    records = read.valid
    source = RowSource(objects, folder.path, num_rows=plan.num_samples, shard_rows=plan.shard_rows)
    checked = {record.blocks.start: _damage(source, record) for record in records if record.blocks.start in blocks}
    reasons = {number: reason for number, reason in checked.items() if reason is not None}
    if not reasons:
        return read
    damaged = set(reasons)
    while more := {each.blocks.start for each in records if _refers_to(each, damaged, plan.shard_rows)} - damaged:
        damaged |= more
    first_reason = next(iter(reasons.values()))
    if not damaged <= set(blocks) or shards_in_use(objects, folder.path)[folder.path] & damaged:
        raise CorruptFeaturesError(
            f"{first_reason}; others refer to these rows, so they cannot be embedded anew: remove with `penultimate "
            "store rm` what `penultimate store verify` names, and extract again"
        )
    log(f"warning: {len(damaged)} blocks of an interrupted run are damaged and are embedded anew: {first_reason}")
    folder.delete_shards(sorted(damaged))
    return read._replace(valid=[record for record in records if record.blocks.start not in damaged])


def _damage(source: RowSource, record: CommitRecord) -> str | None:
    """Return what is wrong with the shard of a record, None if it is whole or there is none."""
    try:
        if record.num_rows:
            source.not_finite(record.blocks.start)
    except CorruptFeaturesError as error:
        return str(error)
    return None


def _refers_to(record: CommitRecord, shards: set[int], shard_rows: int) -> bool:
    """Return whether a sample of a record has its row in one of these shards of the same folder."""
    own = record.row_R[record.source_R == OWN]
    return not shards.isdisjoint((own // shard_rows).tolist())
