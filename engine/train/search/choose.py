"""Choose the best of a grid's runs on val."""

from collections.abc import Sequence

from penultimate.engine.train.runs.run_result import RunResult
from penultimate.store.errors import NoRunConvergedError


def choose(results: Sequence[RunResult], metric: str) -> RunResult:
    """Return the run with the best last val score; of equal ones that of the lower val loss, then the first.

    The last row of a run's history counts, not its best: there is no early stopping, as in the paper. A run that
    diverged is never chosen. Raises NoRunConvergedError if every run diverged.
    """
    finished = [result for result in results if result.status == "finished"]
    if not finished:
        rates = sorted({result.recipe["learning_rate"] for result in results})
        raise NoRunConvergedError(
            f"all {len(results)} runs diverged (learning rates {', '.join(f'{rate:g}' for rate in rates)}); "
            "use smaller ones: --learning-rate"
        )
    if len(finished) == 1:
        return finished[0]
    return max(finished, key=lambda result: (result.last[f"val_{metric}"], -result.last["val_loss"]))
