"""The protocol: a grid of runs on train, the best chosen on val, retrained on train + val, test scored once: a Trial.

Every step leaves its outcome on disk, so that asking again does only what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.decode.factory import make_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.metrics import METRICS, applicable
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.train.evaluate import Evaluation, evaluate
from penultimate.engine.train.grid import WHOLE, Grid, Shard, choose
from penultimate.engine.train.learner.network import Start
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.rows import split_rows
from penultimate.engine.train.runs.checkpoint import BEST, LAST
from penultimate.engine.train.runs.run import Means, train_run
from penultimate.engine.train.runs.run_result import RunResult, forget
from penultimate.engine.train.runs.trained_network import WEIGHTS, load_trained
from penultimate.store.errors import InputError, NoRunConvergedError
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.trial import Trial, trial_id

# Shapes: N test samples, K classes.

_CHOSEN_BY_GRID = ("learning_rate", "weight_decay", "splits")
_ELSEWHERE_IN_TRIAL = ("network", "weights", "images", "seed")
_WITHOUT_EFFECT = ("eval_every",)
"""On weights and scores; budgets are evaluated at intervals of their own, and must not look like other settings."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Search:
    """One question: how good does ``start`` become on ``images`` by this grid?"""

    images: ImageSet
    start: Start
    recipe: Recipe
    """Of every run but for learning rate and weight decay."""

    grid: Grid
    retrain: bool = True
    """Whether the chosen settings are trained again on train + val before test is scored. Not with ``shots``, whose
    runs see k images a class of train and no others."""

    def __post_init__(self) -> None:
        has_val = len(split_rows(self.images, "val")) > 0
        if len(self.grid) > 1 and not has_val:
            raise InputError(f"{self.images.name} has no val split to choose among {len(self.grid)} runs by")
        if self.retrain and self.recipe.shots is not None:
            raise InputError("runs of k images a class are not trained again on train + val; use --no-retrain")

    @property
    def method(self) -> str:
        """As in ``Trial.method``."""
        return "finetune" if self.start.pretrained else "scratch"

    @property
    def retrains(self) -> bool:
        """Whether there is something to add to train, and it is to be added."""
        return self.retrain and len(split_rows(self.images, "val")) > 0

    @property
    def features(self) -> dict[str, str]:
        """As in ``Trial.features``."""
        return {
            "dataset": self.images.name,
            "images": self.images.digest,
            "backbone": self.start.label,
            "weights": self.recipe.weights,
            "preprocess": self.recipe.preprocess.digest,
            "decoder": self.recipe.decoder,
            "precision": self.recipe.precision,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """As in ``Trial.settings``."""
        fixed = {
            name: value
            for name, value in self.recipe.as_dict().items()
            if name not in (*_CHOSEN_BY_GRID, *_ELSEWHERE_IN_TRIAL, *_WITHOUT_EFFECT)
        }
        return fixed | {
            "metric": self.images.metric,
            "learning_rates": list(self.grid.learning_rates),
            "weight_decays": list(self.grid.weight_decays),
            "retrain": self.retrain,
            "objective": "mean loss + (weight_decay / learning_rate) / 2 ||w||^2",
        }

    @property
    def trial_id(self) -> str:
        """Of the Trial it will give."""
        return trial_id(self.method, self.features, self.settings, self.recipe.seed)

    @property
    def recipes(self) -> list[Recipe]:
        """Of the runs to choose among."""
        return self.grid.recipes(self.recipe)

    def folder(self, out: Path, recipe: Recipe) -> Path:
        """Of one run."""
        name = f"{self.images.name}-{self.start.label}-{self.method}-{recipe.digest}"
        return out / quote(name, safe="-_.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """How far a search has come."""

    results: Sequence[RunResult]
    """Of the runs of the grid that have ended."""

    waiting: int
    """Runs of the grid that other shards have not ended yet."""

    folder: Path | None
    """Of the run whose network is the answer; None while others are waited for."""

    trial: Trial | None
    """None while others are waited for, and where there is no test split to score."""


def run_search(search: Search, out: Path, means: Means, *, shard: Shard = WHOLE) -> Outcome:
    """Run what is missing of this shard; if then nothing of the grid is, choose, retrain and score test once.

    Raises NoRunConvergedError if there is nothing to choose from, and what ``train_run`` raises.
    """
    for recipe in shard.of(search.recipes):
        train_run(search.images, search.start, recipe, search.folder(out, recipe), means)
    ended = {recipe: RunResult.read(search.folder(out, recipe)) for recipe in search.recipes}
    results = [result for result in ended.values() if result is not None]
    if len(results) < len(ended):
        return Outcome(results=results, waiting=len(ended) - len(results), folder=None, trial=None)
    chosen = choose(results, search.images.metric)
    recipe, final = _final(search, out, means, chosen)
    folder = search.folder(out, recipe)
    trial = None
    if len(rows := split_rows(search.images, "test")):
        trial = _trial(search, results, chosen, final, _scored(search, folder, recipe, rows, means))
    if means.world.is_main:
        _prune([search.folder(out, other) for other in search.recipes], keep=folder)
    means.world.barrier()
    return Outcome(results=results, waiting=0, folder=folder, trial=trial)


def answer_folder(search: Search, out: Path) -> Path | None:
    """Of the run whose network is the answer; None where the search has not ended.

    Raises NoRunConvergedError if every run diverged.
    """
    ended = [RunResult.read(search.folder(out, recipe)) for recipe in search.recipes]
    results = [result for result in ended if result is not None]
    if len(results) < len(ended):
        return None
    folder = search.folder(out, _final_recipe(search, choose(results, search.images.metric)))
    return folder if RunResult.read(folder) is not None and (folder / WEIGHTS).exists() else None


def _final_recipe(search: Search, chosen: RunResult) -> Recipe:
    recipe = Recipe.from_dict(chosen.recipe)
    if search.retrains:
        recipe = replace(recipe, splits=("train", "val"))
    return recipe


def _final(search: Search, out: Path, means: Means, chosen: RunResult) -> tuple[Recipe, RunResult]:
    recipe = _final_recipe(search, chosen)
    folder = search.folder(out, recipe)
    if means.world.is_main and not (folder / WEIGHTS).exists():
        forget(folder)  # an earlier search chose another run and kept only this one's result
    means.world.barrier()
    final = train_run(search.images, search.start, recipe, folder, means)
    if final.status != "finished":
        raise NoRunConvergedError(
            f"the chosen run (learning rate {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}) diverged "
            f"after {final.steps} updates on {' + '.join(recipe.splits)}; use smaller learning rates, or --no-retrain"
        )
    return recipe, final


def _scored(search: Search, folder: Path, recipe: Recipe, rows: NDArray[np.int64], means: Means) -> Evaluation:
    model = load_trained(folder, recipe, num_classes=len(search.images.class_names), device=means.world.device)
    return evaluate(
        model,
        search.images,
        rows,
        recipe,
        decoder=make_decoder(recipe.decoder, num_workers=means.num_workers),
        batch_size=means.eval_batch_size,
        world=means.world,
    )


def _trial(
    search: Search, results: Sequence[RunResult], chosen: RunResult, final: RunResult, test: Evaluation
) -> Trial:
    metric = search.images.metric
    runs = [*results, final] if _retrained(chosen, final) else list(results)
    return Trial(
        dataset=search.images.name,
        backbone=search.start.label,
        method=search.method,
        features=search.features,
        settings=search.settings,
        seed=search.recipe.seed,
        metric=metric,
        value=test.score(metric),
        metrics={
            **_val_scores(chosen, metric),
            "test": {name: METRICS[name](test.logits_NK, test.labels) for name in applicable(test.labels)}
            | {"loss": test.loss},
        },
        chosen={name: chosen.recipe[name] for name in ("learning_rate", "weight_decay")},
        converged=True,  # a run that diverged is never chosen
        history=_history(results, chosen, final),
        arrays=_predictions(search.images, test),
        versions=library_versions(),
        hardware=machine(),
        commit=source_commit(),
        created=utc_now(),
        wall_seconds=sum(run.wall_seconds for run in runs),
        notes=_notes(results, runs, search, test),
    )


def _val_scores(chosen: RunResult, metric: str) -> dict[str, dict[str, float]]:
    """None where there is no val split."""
    last = chosen.last
    return {"val": {metric: last[f"val_{metric}"], "loss": last["val_loss"]}} if "val_loss" in last else {}


def _history(results: Sequence[RunResult], chosen: RunResult, final: RunResult) -> list[dict[str, Any]]:
    """A row a run of the grid, then the curve of the chosen run, then that of the one trained again."""
    rows = [
        {
            **result.last,
            "phase": "grid",
            "step": result.steps,
            "status": result.status,
            "learning_rate": result.recipe["learning_rate"],
            "weight_decay": result.recipe["weight_decay"],
        }
        for result in results
    ]
    rows += [{**row, "phase": "chosen"} for row in chosen.history]
    return rows + ([{**row, "phase": "retrained"} for row in final.history] if _retrained(chosen, final) else [])


def _retrained(chosen: RunResult, final: RunResult) -> bool:
    return chosen.recipe != final.recipe


def _predictions(images: ImageSet, test: Evaluation) -> dict[str, NDArray[Any]]:
    shared = {"test_ids": np.asarray(images.ids_N[test.rows_N]), "test_labels": np.asarray(test.labels)}
    if test.labels.ndim == 2:
        return shared | {"test_scores": test.logits_NK}
    return shared | {"test_predictions": test.logits_NK.argmax(axis=1)}


def _notes(results: Sequence[RunResult], runs: Sequence[RunResult], search: Search, test: Evaluation) -> list[str]:
    diverged = [result.recipe for result in results if result.status == "diverged"]
    notes = [
        f"diverged and not chosen from: learning rate {recipe['learning_rate']:g}, "
        f"weight decay {recipe['weight_decay']:g}"
        for recipe in diverged
    ]
    failed = {str(search.images.ids_N[row]): why for row, why in test.failed.items()}
    left_out = {name: why for run in runs for name, why in run.left_out.items()} | failed
    return notes + [f"left out {name}: {why}" for name, why in sorted(left_out.items())]


def _prune(folders: Sequence[Path], *, keep: Path) -> None:
    """Runs that were not chosen keep their recipe, log and result, not their weights."""
    for folder in folders:
        if folder != keep:
            for name in (LAST, BEST, WEIGHTS):
                (folder / name).unlink(missing_ok=True)
