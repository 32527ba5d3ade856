"""A contender for processes of their own, which import it by name."""

from penultimate.engine.bench.timing.processes import Turns


def counting(start: int, turns: Turns) -> None:
    """Report ``start`` + 1 after the first turn, and one more after each."""
    turns.ready()
    while True:
        start += 1
        turns.over(start)
