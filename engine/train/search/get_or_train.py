"""Read the trial of a grid search from the log, or train it and log it."""

from collections.abc import Iterator
from pathlib import Path

from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.engine.train.runs.resources import Resources
from penultimate.engine.train.search.grid_search import GridSearch
from penultimate.engine.train.search.run_search import result_folder, run_search
from penultimate.engine.train.search.search_result import SearchResult
from penultimate.store.trials.trial_log import TrialLog


def get_or_train(
    search: GridSearch, out: Path, trials: TrialLog, resources: Resources, *, partition: Partition = WHOLE
) -> SearchResult:
    """Read the trial from ``trials``, or do what is missing of the search, append its trial and log a summary.

    Only the main process of a world writes and says anything. Raises what ``run_search`` raises.
    """
    if trials.contains(search.trial_id):
        trial = next(trial for trial in trials.trials() if trial.id == search.trial_id)
        return SearchResult(trial=trial, folder=result_folder(search, out))
    result = run_search(search, out, resources, partition=partition)
    if resources.world.is_main:
        for line in _summary(search, result, trials.objects.where()):
            resources.log(f"{search.images.name}, {search.initial.label}, {search.method}: {line}")
        if result.trial is not None:
            trials.append(result.trial)
    return result


def _summary(search: GridSearch, result: SearchResult, trials: str) -> Iterator[str]:
    if result.num_waiting:
        left = f"{result.num_waiting} of {len(search.grid)} runs are left to other partitions"
        yield f"{left}; once they have ended, the same command without --shard makes the trial"
    elif result.trial is None:
        yield f"no test split to score; the network is in {result.folder}"
    else:
        yield from result.trial.notes
        yield f"logged in {trials}; the network is in {result.folder}"
