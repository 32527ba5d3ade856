"""Find out whether the Hugging Face hub can be reached, and advise where it cannot."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from penultimate.store.errors import UnavailableError

CONNECT_SECONDS = 5.0
"""Seconds within which a host must answer. The hub's own client would try each file again for half a minute."""


@contextmanager
def asking_the_hub(name: str, advice: str) -> Iterator[None]:
    """Let timm load ``name`` from the hub within the context; raise UnavailableError with ``advice`` if it cannot.

    The host is tried first, unless only the local cache is to be asked (HF_HUB_OFFLINE) or a proxy stands in between.
    """
    from huggingface_hub import constants

    try:
        if not constants.HF_HUB_OFFLINE and not getproxies():
            host = urlsplit(constants.ENDPOINT)
            _connect(host.hostname or "", host.port or (80 if host.scheme == "http" else 443))
        yield
    except OSError as error:
        reason = " ".join(str(error).split())[:160]
        raise UnavailableError(f"{name} cannot be fetched from the hub ({reason}); {advice}") from error


def _connect(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(f"{host}: {error.strerror or error}") from error
