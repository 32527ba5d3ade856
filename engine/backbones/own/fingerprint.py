"""Fingerprint what a network computes: a few numbers from its features of fixed images, the same on every machine.

A digest must not change where the network did not, and features are never the same to the bit: other processors and
numbers of threads add in another order. So they are computed in float64 (``exact``), where that moves them by 1e-15 of
their norm, and a few of their projections are rounded to 1e-6. That a projection lies so near to the boundary between
two roundings that 1e-15 tells, happens once in some hundred million networks; and an edit that moves features by less
than 1e-6 of their norm is less than the rounding of float32, in which they are stored.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from penultimate.store.format.digest import digest_of

# Shapes: B fixed images, D feature dimensions, P projections.

DECIMALS = 6
"""Decimals to which the numbers of a fingerprint are rounded."""

_PROJECTIONS = 4


def fingerprint_of(features: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Return by readout: D, the logarithm of the norm of all features (B, D) float64, and P projections of it to 1."""
    return {name: _numbers(features_BD) for name, features_BD in sorted(features.items())}


def digest_of_fingerprint(fingerprint: Mapping[str, list[float]]) -> str:
    """Return the fingerprint's digest, 16 hex digits."""
    return digest_of(fingerprint)


def _numbers(features_BD: Tensor) -> list[float]:
    flat = features_BD.flatten()
    norm = flat.norm()
    index = torch.arange(len(flat), dtype=torch.float64)
    # cos(w i^2): numbers without pattern over i, and with another irrational w without relation to each other.
    weights = torch.stack([torch.cos(2**0.5 * (k + 1) * index**2) for k in range(_PROJECTIONS)])
    numbers_P = weights @ (flat / norm)
    return [features_BD.shape[1], *(round(float(x), DECIMALS) + 0.0 for x in (norm.log(), *numbers_P))]
