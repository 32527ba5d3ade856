"""Lease: a claim in a bucket, where nothing reports that a process has ended; it lasts while its holder renews it.

    <lock>                 the ledger of who has which shards; changed only if nobody else changed it meanwhile
    <lock>.leases/<token>  one object per claim, which its holder rewrites every quarter of LEASE_SECONDS

A lease is over once its object has not been written for LEASE_SECONDS. Both times come from the server: a writer that
wants shards writes an object of its own first, and compares. On the holder's own machine, a process that has ended is
noticed at once. A lease keeps two writers from doing the same work; if one was taken over too early, ``shard_commit``
still keeps the store correct.
"""

import json
import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from typing_extensions import override

from penultimate.store.errors import StoreBusyError, StoreError
from penultimate.store.objects.claim import Claim, overlap
from penultimate.store.objects.objects import Version, VersionedObjects

LEASE_SECONDS = 60.0

_RENEWALS_A_LEASE = 4


class LeaseClaim(Claim):
    """A Claim by a lease, held from construction on; raises StoreBusyError, naming the holder, if a shard is taken."""

    def __init__(self, objects: VersionedObjects, lock: str, shards: range, *, seconds: float = LEASE_SECONDS) -> None:
        self._objects = objects
        self._lock = lock
        self._seconds = seconds
        self._entry = {"token": uuid4().hex, "first": shards.start, "stop": shards.stop, **_this_process()}
        self._beats = 0
        self._version: Version | None = None
        self._ended = threading.Event()
        self._lost = False
        self._renew()
        try:
            self._take(shards)
        except BaseException:
            objects.delete(self._lease(self._entry))
            raise
        threading.Thread(target=self._keep_renewing, name="lease", daemon=True).start()

    @override
    def check(self) -> None:
        if self._lost or time.monotonic() - self._renewed > self._seconds:
            raise StoreBusyError(
                f"{self._objects.where(self._lock)} could not be kept for {self._seconds:g} s, and other writers may "
                "have taken over; run again to go on with what is left"
            )

    @override
    def release(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        try:
            self._change(lambda entries: [entry for entry in entries if entry["token"] != self._entry["token"]])
            self._objects.delete(self._lease(self._entry))
        except StoreError:
            return  # the server no longer responds, so the lease expires by itself

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _take(self, shards: range) -> None:
        while True:
            there = self._objects.get_versioned(self._lock)
            entries = [] if there is None else json.loads(there.content)
            others = [entry for entry in entries if overlap(range(entry["first"], entry["stop"]), shards)]
            if others:
                self._refuse_if_alive(others)
            kept = [entry for entry in entries if entry not in others]
            if self._put(([*kept, self._entry]), there and there.version):
                for entry in others:
                    self._objects.delete(self._lease(entry))
                return
            time.sleep(
                random.SystemRandom().uniform(0, 0.2)
            )  # another writer changed the ledger: wait before trying again

    def _refuse_if_alive(self, others: list[dict[str, Any]]) -> None:
        written = self._objects.modified(f"{self._lock}.leases")
        if (now := written.get(self._entry["token"])) is None:
            raise StoreBusyError(f"{self._objects.where(self._lock)} was removed by another writer; run again")
        for entry in others:
            last = written.get(entry["token"])
            if last is not None and (now - last).total_seconds() <= self._seconds and not _is_gone(entry):
                raise StoreBusyError(
                    f"{self._objects.where(self._lock.rpartition('/')[0])} is being written by process "
                    f"{entry['pid']} on {entry['host']}; wait for it to end, or end it and run again "
                    f"{self._seconds:g} s later to resume where it stopped"
                )

    def _change(self, change: Any) -> None:
        """Apply ``change`` to the entries of the ledger, if it still exists."""
        while (there := self._objects.get_versioned(self._lock)) is not None:
            if self._put(change(json.loads(there.content)), there.version):
                return

    def _put(self, entries: list[dict[str, Any]], seen: Version | None) -> bool:
        return self._objects.put_if(self._lock, json.dumps(entries, indent=1).encode(), seen) is not None

    def _lease(self, entry: Mapping[str, Any]) -> str:
        return f"{self._lock}.leases/{entry['token']}"

    def _renew(self) -> None:
        """Rewrite the lease; this fails if another writer took it over and thereby removed the object."""
        sent_at = time.monotonic()
        self._beats += 1
        content = f"{self._entry['token']} {self._beats}".encode()
        self._version = self._objects.put_if(self._lease(self._entry), content, self._version)
        self._lost = self._version is None
        if not self._lost:
            self._renewed = sent_at

    def _keep_renewing(self) -> None:
        while not self._lost and not self._ended.wait(self._seconds / _RENEWALS_A_LEASE):
            try:
                self._renew()
            except StoreError:
                continue  # ``check`` raises once this has gone on for too long


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": _machine(), "begun": _begun(os.getpid())}


def _machine() -> str | None:
    """Return the scope of a process number: the boot of the machine and the PID namespace; None outside Linux."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}" if boot.exists() else None


def _begun(pid: int) -> str | None:
    """Return when a process began, in clock ticks, or None if it has ended (proc(5), /proc/pid/stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_gone(entry: Mapping[str, Any]) -> bool:
    """Return whether the process ran on this machine and has ended."""
    return entry["machine"] is not None and entry["machine"] == _machine() and entry["begun"] != _begun(entry["pid"])
