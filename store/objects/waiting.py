"""Claims that others hold for moments only, and the removal of a lock that nobody needs any more."""

import time
from contextlib import suppress

from penultimate.store.errors import StoreBusyError
from penultimate.store.objects.claim import EVERYTHING, Claim
from penultimate.store.objects.objects import Objects


def claim_when_free(objects: Objects, lock: str, shards: range) -> Claim:
    """Claim what nobody holds for long, WHOLE_KEY or a reference, waiting while somebody does."""
    while True:
        try:
            return objects.claim(lock, shards)
        except StoreBusyError:
            time.sleep(objects.poll_seconds)


def remove_unused_lock(objects: Objects, lock: str) -> None:
    """Remove a lock through which nothing is claimed; does nothing while something is."""
    with suppress(StoreBusyError), objects.claim(lock, EVERYTHING):
        objects.delete(lock)
