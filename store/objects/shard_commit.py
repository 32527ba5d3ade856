"""Commit a shard in a bucket, whose leases can be overtaken, in three conditional puts.

    1. its commit record becomes *pending*, with a token of this attempt's own
    2. the shard is put, on condition that it is as it was before 1
    3. the record itself is put, on condition that it is still the pending one of this attempt

Another writer can take over between any two of them only by making the record pending for itself, after looking at
the shard. If it does so before 2 or 3, then 3 fails here. If our put of the shard arrives late, after the other's,
then 2 fails. Hence the record always describes the very bytes of the shard, whatever leases, pauses and clocks do.
"""

from collections.abc import Callable
from uuid import uuid4

from penultimate.store.errors import StoreBusyError
from penultimate.store.objects.objects import Version, VersionedObjects

_TAKEOVERS = 5
"""Number of attempts at a shard that another writer has just put, before giving way to it."""


def commit_shard(
    objects: VersionedObjects,
    shard: str,
    content: bytes | memoryview,
    record: str,
    document: bytes,
    *,
    is_record: Callable[[bytes], bool],
) -> None:
    """Implement ``Objects.commit`` on conditional puts; raises StoreBusyError if another writer took over."""
    seen: Version | None = None  # usually the shard is absent, so the first put assumes so without a request
    pending = objects.put_if(record, pending_record(), None)
    for _ in range(_TAKEOVERS):
        if pending is not None and objects.put_if(shard, content, seen) is not None:
            if objects.put_if(record, document, pending) is None:
                break
            return
        seen = objects.version_of(shard)
        if pending is None:
            there = objects.get_versioned(record)
            if there is not None and is_record(there.content):
                break
            pending = objects.put_if(record, pending_record(), None if there is None else there.version)
        elif (pending := objects.put_if(record, pending_record(), pending)) is None:
            break
    raise StoreBusyError(
        f"{objects.where(shard)} is written by another writer, which took over from this one; run again to go on with "
        "what is left"
    )


def pending_record() -> bytes:
    """Return a placeholder for a record that is still to come; no two are equal."""
    return b"pending " + uuid4().hex.encode()


PENDING_BYTES = len(pending_record())
"""Size of a pending record; every commit record is longer."""
