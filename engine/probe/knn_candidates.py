"""KnnCandidates: k-nearest-neighbour classifiers of stored features, one for each k and temperature."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from penultimate.engine.neighbors.knn import concatenated, nearest_streamed, vote_shares
from penultimate.engine.neighbors.nearest import Neighbors
from penultimate.engine.probe.candidates import Candidates, Scores
from penultimate.engine.probe.fitting.device_memory import usable_bytes
from penultimate.engine.probe.reader import finite_batches
from penultimate.engine.probe.settings import KnnSettings, ProbeResources
from penultimate.engine.runtime.devices import device_named
from penultimate.engine.runtime.free_memory import safe_memory_bytes
from penultimate.store.feature_set import FeatureSet

# Shapes: N samples to score, D feature dimensions, K classes.

SMALLEST_ODDS = 1e-6
"""Odds, and their inverse, at which the votes for one of several labels are taken to be unanimous."""


class KnnCandidates(Candidates):
    """Classifiers whose bank is the rows they are fitted to.

    Queries are held in memory, as many at once as half of it takes, and the bank is streamed past them: once where all
    fit. Scores are logits of the votes, so that their softmax (a sigmoid for several labels) is a class's part of them.
    """

    def __init__(self, features: FeatureSet, settings: KnnSettings, resources: ProbeResources) -> None:
        self._features, self._settings, self._resources = features, settings, resources
        self._device = device_named(resources.device)
        self._bank = np.empty(0, np.int64)
        self._train_size = 0
        self._chosen = (0, 0.0)

    @property
    @override
    def converged(self) -> bool:
        return True  # nothing is iterated

    @property
    @override
    def has_temperature(self) -> bool:
        return False

    @override
    def fit(self, rows: NDArray[np.int64]) -> None:
        self._bank, self._train_size = rows, len(rows)

    @override
    def scores(self, rows: NDArray[np.int64]) -> Iterator[Scores]:
        candidates = self._settings.candidates
        found = self._neighbors(rows, max(k for k, _ in candidates))
        return (self._votes(found, k, temperature) for k, temperature in candidates)

    @override
    def choose(self, best: int) -> Mapping[str, float]:
        self._chosen = self._settings.candidates[best]
        return {"k": self._chosen[0], "vote_temperature": self._chosen[1]}

    @override
    def refit(self, rows: NDArray[np.int64]) -> list[Mapping[str, Any]]:
        self._bank = rows
        return []  # nothing is fitted

    @override
    def final_scores(self, rows: NDArray[np.int64]) -> Scores:
        k, temperature = self._chosen
        return self._votes(self._neighbors(rows, k), k, temperature)

    @override
    def history(self, val: Sequence[Mapping[str, float]]) -> list[Mapping[str, Any]]:
        return [
            {"k": k, "vote_temperature": temperature, "fitted_on": "train", **scored}
            for (k, temperature), scored in zip(self._settings.candidates, val, strict=True)
        ]

    @override
    def notes(self) -> list[str]:
        ks = sorted({k for k, _ in self._settings.candidates})
        found = []
        if ks[-1] > self._train_size:
            found.append(f"k = {ks[-1]} is more than the {self._train_size} training images, which then all vote")
        if len(ks) > 1 and self._chosen[0] in (ks[0], ks[-1]):
            found.append(f"the chosen k = {self._chosen[0]} is at the edge of those tried")
        return found

    def _neighbors(self, rows: NDArray[np.int64], k: int) -> Neighbors:
        block = max(1, int(self._memory_bytes() / 2 // (4 * self._features.feature_dim)))
        parts = []
        for start in range(0, len(rows), block):
            queries = np.concatenate(list(finite_batches(self._features, rows[start : start + block])))
            bank = lambda: finite_batches(self._features, self._bank)  # noqa: E731
            parts.append(nearest_streamed(queries, bank, k=min(k, len(self._bank)), device=self._resources.device))
        return concatenated(parts)

    def _memory_bytes(self) -> float:
        told = self._resources.memory_bytes
        on_device = usable_bytes(self._device) if self._device.type == "cuda" else math.inf
        return min(safe_memory_bytes() if told is None else told, on_device)

    def _votes(self, neighbors: Neighbors, k: int, temperature: float) -> Scores:
        labels = self._features.labels[self._bank]
        num_classes = len(self._features.class_names)
        shares_NK = vote_shares(neighbors, labels, num_classes=num_classes, k=k, temperature=temperature)
        if labels.ndim == 2:
            clipped_NK = np.clip(shares_NK, SMALLEST_ODDS, 1 - SMALLEST_ODDS)
            return np.log(clipped_NK / (1 - clipped_NK)).astype(np.float32)
        with np.errstate(divide="ignore"):  # a class without a vote has the logit -inf
            return np.log(shares_NK).astype(np.float32)
