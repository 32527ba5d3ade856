"""Retry: the number of attempts for a request to an object store, and the pauses between them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Bounded exponential backoff with full jitter.

    Pauses are drawn from U(0, min(``longest``, ``first`` 2^n)), so that clients throttled at the same moment do not all
    return at the same moment (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    attempts: int = 8
    """Number of requests, the first one included."""

    first: float = 0.2
    """Upper limit of the first pause, in seconds."""

    longest: float = 20.0
    """Upper limit of every pause, in seconds."""

    timeout: float = 60.0
    """Largest number of seconds for one request, connecting included."""

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait after each failed attempt but the last."""
        # No seed here, because clients must differ from each other.
        draw = random.SystemRandom()
        for attempt in range(self.attempts - 1):
            yield draw.uniform(0.0, min(self.longest, self.first * 2**attempt))


USUAL_RETRY = Retry()
"""The default: at most 8 attempts, whose seven pauses add up to at most 25.4 s, half of that on average."""
