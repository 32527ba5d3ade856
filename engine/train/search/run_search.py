"""Run a grid search by the paper's protocol: train on train, choose on val, train again on both, score test once.

Every step leaves its result on disk, so that the same call again does only what is missing.
"""

from collections.abc import Sequence
from pathlib import Path

from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.rows import split_rows
from penultimate.engine.train.runs.checkpoint import BEST, LAST
from penultimate.engine.train.runs.resources import Resources
from penultimate.engine.train.runs.run import train_run
from penultimate.engine.train.runs.run_result import RunResult, forget
from penultimate.engine.train.runs.trained_network import WEIGHTS
from penultimate.engine.train.search.choose import choose
from penultimate.engine.train.search.grid_search import GridSearch
from penultimate.engine.train.search.search_result import SearchResult
from penultimate.engine.train.search.search_trial import SearchRuns, score, trial_of
from penultimate.store.errors import NoRunConvergedError
from penultimate.store.trials.trial import Trial


def run_search(search: GridSearch, out: Path, resources: Resources, *, partition: Partition = WHOLE) -> SearchResult:
    """Do the missing runs of this partition; if then none of the grid is missing, choose, retrain and score test.

    Raises NoRunConvergedError if there is nothing to choose from, and what ``train_run`` raises.
    """
    for recipe in partition.of(search.recipes):
        train_run(search.images, search.initial, recipe, search.folder(out, recipe), resources)
    ended = _ended(search, out)
    if len(ended) < len(search.grid):
        return SearchResult(trial=None, folder=None, num_waiting=len(search.grid) - len(ended))
    chosen = choose(ended, search.images.metric)
    final = _train_final(search, out, resources, chosen)
    folder = search.folder(out, Recipe.from_dict(final.recipe))
    trial = _scored(search, SearchRuns(grid=ended, chosen=chosen, final=final), folder, resources)
    if resources.world.is_main:
        _prune([search.folder(out, other) for other in search.recipes], keep=folder)
    resources.world.barrier()
    return SearchResult(trial=trial, folder=folder)


def result_folder(search: GridSearch, out: Path) -> Path | None:
    """Return the folder of the run whose network is the result; None where the search has not ended.

    Raises NoRunConvergedError if every run diverged.
    """
    ended = _ended(search, out)
    if len(ended) < len(search.grid):
        return None
    folder = search.folder(out, _final_recipe(search, choose(ended, search.images.metric)))
    return folder if RunResult.read(folder) is not None and (folder / WEIGHTS).exists() else None


def _ended(search: GridSearch, out: Path) -> list[RunResult]:
    found = [RunResult.read(search.folder(out, recipe)) for recipe in search.recipes]
    return [result for result in found if result is not None]


def _final_recipe(search: GridSearch, chosen: RunResult) -> Recipe:
    recipe = Recipe.from_dict(chosen.recipe)
    return recipe.replace(splits=("train", "val")) if search.retrains else recipe


def _train_final(search: GridSearch, out: Path, resources: Resources, chosen: RunResult) -> RunResult:
    recipe = _final_recipe(search, chosen)
    folder = search.folder(out, recipe)
    if resources.world.is_main and not (folder / WEIGHTS).exists():
        forget(folder)  # an earlier search chose another run and kept only this one's result
    resources.world.barrier()
    final = train_run(search.images, search.initial, recipe, folder, resources)
    if final.status != "finished":
        raise NoRunConvergedError(
            f"the chosen run (learning rate {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}) diverged "
            f"after {final.steps} updates on {' + '.join(recipe.splits)}; use smaller learning rates, or --no-retrain"
        )
    return final


def _scored(search: GridSearch, runs: SearchRuns, folder: Path, resources: Resources) -> Trial | None:
    """Score the final network on test; None where there is no test split."""
    rows = split_rows(search.images, "test")
    if not len(rows):
        return None
    return trial_of(search, runs, score(search, folder, Recipe.from_dict(runs.final.recipe), rows, resources))


def _prune(folders: Sequence[Path], *, keep: Path) -> None:
    """Remove the weights of runs that were not chosen; recipe, log and result stay."""
    for folder in folders:
        if folder != keep:
            for name in (LAST, BEST, WEIGHTS):
                (folder / name).unlink(missing_ok=True)
