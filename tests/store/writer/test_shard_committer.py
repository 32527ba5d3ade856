"""ShardCommitter runs a bounded number of commits at once and tells of every failure."""

import threading
from collections.abc import Callable

import pytest

from penultimate.store.errors import StoreError
from penultimate.store.writer.shard_committer import ShardCommitter

LONG = 30.0
"""Seconds after which a test that hangs fails."""


def test_commits_run_while_the_next_is_submitted_but_only_so_many_at_once() -> None:
    go = [threading.Event() for _ in range(3)]
    begun = [threading.Event() for _ in range(3)]

    def commit(number: int) -> Callable[[], None]:
        def run() -> None:
            begun[number].set()
            assert go[number].wait(LONG)

        return run

    with ShardCommitter(in_flight=2) as committer:
        committer.submit(commit(0))
        committer.submit(commit(1))
        assert begun[0].wait(LONG)
        assert begun[1].wait(LONG)
        third = threading.Thread(target=committer.submit, args=(commit(2),))
        third.start()
        third.join(0.1)
        assert third.is_alive()
        assert not begun[2].is_set()
        go[0].set()
        third.join(LONG)
        assert not third.is_alive()
        assert begun[2].wait(LONG)
        go[1].set()
        go[2].set()


def test_leaving_waits_for_every_commit() -> None:
    done: list[int] = []
    with ShardCommitter(in_flight=3) as committer:
        for number in range(10):
            committer.submit(lambda number=number: done.append(number))  # type: ignore[misc]  # mypy sees no default
    assert sorted(done) == list(range(10))


def fail() -> None:
    raise StoreError("no space")


def test_a_failure_is_raised_by_the_next_call_and_no_further_commit_is_begun() -> None:
    committer, done = ShardCommitter(in_flight=1), []
    committer.submit(fail)
    with pytest.raises(StoreError, match="no space"):
        committer.submit(lambda: done.append(1))
    with pytest.raises(StoreError, match="no space"):
        committer.check()
    committer.close()
    committer.close()
    assert done == []


def test_a_failure_of_the_last_commit_is_raised_by_finish() -> None:
    committer = ShardCommitter(in_flight=4)
    committer.submit(fail)
    with pytest.raises(StoreError, match="no space"):
        committer.finish()
    committer.close()


def test_a_failure_is_raised_on_leaving() -> None:
    with pytest.raises(StoreError, match="no space"), ShardCommitter(in_flight=4) as committer:
        committer.submit(fail)


def test_an_error_that_leaves_is_not_replaced_by_that_of_a_commit_and_waits_for_those_that_run() -> None:
    go, done = threading.Event(), threading.Event()

    def commit() -> None:
        assert go.wait(LONG)
        done.set()

    def interrupted() -> None:
        with ShardCommitter(in_flight=4) as committer:
            committer.submit(commit)
            committer.submit(fail)
            raise KeyboardInterrupt

    threading.Timer(0.1, go.set).start()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done.is_set()
