"""Retry: how often, and after which pauses, a request to an object store is made again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Bounded exponential backoff with full jitter.

    Pauses are drawn from U(0, min(``longest``, ``first`` 2^n)), which spreads many clients that were throttled at the
    same moment (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    attempts: int = 8
    """Requests in all, the first one counted."""

    first: float = 0.2
    """Seconds."""

    longest: float = 20.0
    """Seconds."""

    timeout: float = 60.0
    """Seconds one request may take, connecting included."""

    def pauses(self) -> Iterator[float]:
        """Seconds to wait after each failed attempt but the last."""
        # Not the seeded generators of the computation: clients must differ from each other.
        draw = random.SystemRandom()
        for attempt in range(self.attempts - 1):
            yield draw.uniform(0.0, min(self.longest, self.first * 2**attempt))


USUAL_RETRY = Retry()
"""At most 8 attempts, with pauses of at most 26 s together on average half of that."""
