"""Fixtures of the tests that need an object store; conftest.py imports them."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.s3_server import ENVIRONMENT, Proxy, healthy, s3_proxy

from penultimate.store.objects import remote as remote_objects
from penultimate.store.objects.retry import Retry

RETRY = Retry(attempts=5, first=0.01, longest=0.05, timeout=30.0)


@pytest.fixture(scope="session")
def server() -> Iterator[Proxy]:
    with s3_proxy() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Return the healthy server, with short pauses in the client.

    A timeout is longer than a busy machine takes for an answer: requests that were made twice would be counted twice.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_objects, "USUAL_RETRY", RETRY)
    server.plan = healthy
    server.seen.clear()
    server.most_at_once = 0
    yield server
    server.plan = healthy
    server.latency_seconds = 0.0


@pytest.fixture
def impatient(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a request after a second, where the server is to leave some without an answer."""
    monkeypatch.setattr(remote_objects, "USUAL_RETRY", replace(RETRY, timeout=1.0))
