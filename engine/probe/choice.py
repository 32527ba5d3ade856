"""Choose one of several candidates by their scores of val."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from penultimate.engine.scoring.outputs import Outputs
from penultimate.engine.scoring.scores import goodness, value_of
from penultimate.store.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice:
    """The candidate that is best on val."""

    index: int
    """Index of the first of the best."""

    outputs: Outputs
    """Its outputs on val."""

    goodness: float
    """What it scored by what it was chosen by, with the sign with which more is better: for choices by the same."""

    val: Sequence[Mapping[str, float]]
    """What each candidate scored: ``val`` by the trial's metric, and by what was chosen if that is another score."""


def choose(candidates: Iterable[Outputs], metric: str, choose_by: str) -> Choice:
    """Return the first of the candidates that are best by ``choose_by``; only the best one's outputs are held.

    Raises ``InputError`` where there is none, or ``choose_by`` is not defined for the labels.
    """
    best: Outputs | None = None
    best_index, best_goodness, val = 0, float("-inf"), []
    for index, outputs in enumerate(candidates):
        scored = {"val": value_of(metric, outputs)}
        if choose_by != metric:
            scored[f"val_{choose_by}"] = value_of(choose_by, outputs)
        val.append(scored)
        found = goodness(choose_by, list(scored.values())[-1])
        if best is None or found > best_goodness:
            best, best_index, best_goodness = outputs, index, found
    if best is None:
        raise InputError("there is no candidate to choose from")
    return Choice(index=best_index, outputs=best, goodness=best_goodness, val=val)
