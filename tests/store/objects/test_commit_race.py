"""Two writers each believe that a shard is theirs, at every possible moment; the record always describes its bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")

from obstore.store import MemoryStore
from support.memory_objects import MemoryObjects

from penultimate.store.errors import StoreBusyError
from penultimate.store.objects import lease
from penultimate.store.objects.lease import LeaseClaim
from penultimate.store.objects.objects import Version
from penultimate.store.objects.shard_commit import PENDING_BYTES, pending_record

SHARD, RECORD = "features/c/0/0", "features/commits/0.json"


class Dead(BaseException):
    """Simulates the end of a process."""


class Writer(MemoryObjects):
    """Objects that call ``meanwhile`` before their nth change."""

    def __init__(self, client: MemoryStore, at: int = -1, meanwhile: Any = None) -> None:
        super().__init__(client)
        self._left, self._meanwhile = at, meanwhile

    def put_if(self, name: str, content: bytes | memoryview, seen: Version | None) -> Version | None:
        self._left -= 1
        if self._left == -1:
            self._meanwhile()
        return super().put_if(name, content, seen)

    def write(self, word: bytes) -> bool:
        """Commit a shard of this content; return True if the call succeeded."""
        try:
            self.commit(SHARD, word, RECORD, _record(word), is_record=lambda document: document.startswith(b"{"))
        except StoreBusyError:
            return False
        return True


def _record(word: bytes) -> bytes:
    return b'{"commit record that is as long as they are": "' + word + b'"}'


def _holds(client: MemoryStore) -> bytes:
    """Return the committed content, of which the record must be."""
    shard, record = Writer(client).get(SHARD), Writer(client).get(RECORD)
    assert shard is not None
    assert record == _record(shard)
    return shard


@pytest.mark.parametrize("leftover", [False, True], ids=["fresh", "after a kill"])
@pytest.mark.parametrize("third_at", range(7))
@pytest.mark.parametrize("second_at", range(7))
def test_whoever_comes_in_between_the_record_is_of_the_shard(second_at: int, third_at: int, leftover: bool) -> None:
    """A writes, B before A's nth put and C before B's mth put; any of them may lose, none may corrupt the shard."""
    client = MemoryStore()
    if leftover:
        with pytest.raises(Dead):
            Writer(client, at=2, meanwhile=_die).write(b"left over")
    told: dict[bytes, bool] = {}

    def as_writer(word: bytes, at: int, meanwhile: Any) -> None:
        told[word] = Writer(client, at, meanwhile).write(word)

    as_writer(b"A", second_at, lambda: as_writer(b"B", third_at, lambda: as_writer(b"C", -1, None)))
    winner = _holds(client)
    assert told[winner]
    # Another who was told so was overtaken before the winner looked, not after: that leaves one.
    assert sum(told.values()) == 1


@pytest.mark.parametrize("second_dies_at", range(3))
@pytest.mark.parametrize("second_at", range(3))
def test_a_writer_that_took_over_and_died_leaves_a_shard_that_the_next_one_finishes(
    second_at: int, second_dies_at: int
) -> None:
    client = MemoryStore()

    def second() -> None:
        with pytest.raises(Dead):
            Writer(client, second_dies_at, _die).write(b"B")

    told = Writer(client, second_at, second).write(b"A")
    record = Writer(client).get(RECORD)
    assert record is not None
    if told or record.startswith(b"{"):
        assert _holds(client) == b"A"
    else:
        assert Writer(client).write(b"C")
        assert _holds(client) == b"C"


def test_a_lease_that_was_not_renewed_is_overcome_and_its_holder_finds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    client = MemoryStore()
    monkeypatch.setattr(lease, "_is_gone", lambda entry: False)  # as on another machine
    with _asleep(monkeypatch):
        sleeper = LeaseClaim(Writer(client), "writer.lock", range(4), seconds=0.2)
        with pytest.raises(StoreBusyError, match="is being written by process"):
            LeaseClaim(Writer(client), "writer.lock", range(3, 9), seconds=60)
        LeaseClaim(Writer(client), "writer.lock", range(4, 9), seconds=60).release()
        sleeper.check()
        while Writer(client).modified("writer.lock.leases")[_token(sleeper)] + timedelta(seconds=0.3) > _now(client):
            pass
    with LeaseClaim(Writer(client), "writer.lock", range(2), seconds=0.2) as taken:
        taken.check()
        with pytest.raises(StoreBusyError, match="could not be kept for"):
            sleeper.check()
        sleeper.release()
        assert Writer(client).names("writer.lock.leases") == [_token(taken)]
    assert Writer(client).names("writer.lock.leases") == []
    assert Writer(client).get("writer.lock") == b"[]"


def test_a_lease_is_kept_for_as_long_as_its_holder_lives() -> None:
    client = MemoryStore()
    with LeaseClaim(Writer(client), "writer.lock", range(4), seconds=0.2) as claim:
        first = Writer(client).get(f"writer.lock.leases/{_token(claim)}")
        while Writer(client).get(f"writer.lock.leases/{_token(claim)}") == first:
            claim.check()
        with pytest.raises(StoreBusyError):
            LeaseClaim(Writer(client), "writer.lock", range(4), seconds=0.2)


def _die() -> None:
    raise Dead


def _token(claim: LeaseClaim) -> str:
    return str(claim._entry["token"])


def _now(client: MemoryStore) -> Any:
    Writer(client).put("clock", b"")
    return Writer(client).modified("")["clock"]


@contextmanager
def _asleep(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make claims within the context that are never renewed."""
    with monkeypatch.context() as patch:
        patch.setattr(LeaseClaim, "_keep_renewing", lambda self: None)
        yield


def test_what_is_pending_is_not_taken_for_a_record() -> None:
    client = MemoryStore()
    with pytest.raises(Dead):
        Writer(client, at=1, meanwhile=_die).write(b"A")
    assert Writer(client).names("features/commits") == ["0.json"]
    assert Writer(client).records("features/commits") == []
    assert len(pending_record()) == PENDING_BYTES
