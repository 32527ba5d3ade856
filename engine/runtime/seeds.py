"""Seeds of random numbers: whole numbers that both NumPy and torch take."""

from penultimate.store.errors import InputError

LARGEST_SEED = 2**63 - 1
"""Largest seed that torch's generator takes (a signed integer of 64 bits); NumPy takes none below 0."""


def check_seed(seed: int) -> int:
    """Return the seed; raise InputError unless it is from 0 to LARGEST_SEED.

    >>> check_seed(7)
    7
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"a seed is a whole number from 0 to {LARGEST_SEED:,}, got {seed}")
    return seed
