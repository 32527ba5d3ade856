"""Score the network of a grid search on test, once, and describe the whole search as a Trial."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.decode.factory import make_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.scoring.outputs import Outputs
from penultimate.engine.scoring.scores import score_all
from penultimate.engine.train.evaluate import Evaluation, evaluate
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.resources import Resources
from penultimate.engine.train.runs.run_result import RunResult
from penultimate.engine.train.runs.trained_network import load_trained
from penultimate.engine.train.search.grid_search import GridSearch
from penultimate.store.provenance import library_versions, source_commit, utc_now
from penultimate.store.trials.trial import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRuns:
    """The runs of a search that has ended."""

    grid: Sequence[RunResult]
    """The runs to choose among."""

    chosen: RunResult
    """The best of them on val."""

    final: RunResult
    """The run that is scored: the chosen one, or the one trained again with its settings."""

    @property
    def retrained(self) -> bool:
        """Return True if the chosen settings were trained again."""
        return self.chosen.recipe != self.final.recipe

    @property
    def distinct(self) -> list[RunResult]:
        """Return all runs, each once."""
        return [*self.grid, self.final] if self.retrained else list(self.grid)


def score(
    search: GridSearch, folder: Path, recipe: Recipe, rows: NDArray[np.int64], resources: Resources
) -> Evaluation:
    """Evaluate the trained network in ``folder`` on ``rows`` of the images."""
    model = load_trained(folder, recipe, num_classes=len(search.images.class_names), device=resources.world.device)
    return evaluate(
        model,
        search.images,
        rows,
        recipe,
        decoder=make_decoder(recipe.decoder, num_workers=resources.num_workers),
        batch_size=resources.settings.eval_batch_size,
        world=resources.world,
    )


def trial_of(search: GridSearch, runs: SearchRuns, test: Evaluation) -> Trial:
    """Describe the search as a trial: settings, scores on val and test, predictions, curves, notes, provenance."""
    metric = search.images.metric
    outputs = Outputs(scores_NK=test.logits_NK, labels=np.asarray(test.labels), loss=search.recipe.loss)
    return Trial(
        dataset=search.images.name,
        backbone=search.initial.label,
        method=search.method,
        features=search.features,
        settings=search.settings,
        seed=search.recipe.seed,
        metric=metric,
        value=test.score(metric),
        metrics=_val_scores(runs.chosen, metric) | {"test": score_all(outputs) | {"loss": test.loss}},
        chosen={name: runs.chosen.recipe[name] for name in ("learning_rate", "weight_decay")},
        converged=True,  # a run that diverged is never chosen
        history=_history(runs),
        arrays=outputs.kept(np.asarray(search.images.ids_N[test.rows_N]), search.images.class_names),
        versions=library_versions(),
        hardware=machine(),
        commit=source_commit(),
        created=utc_now(),
        wall_seconds=sum(run.wall_seconds for run in runs.distinct),
        notes=_notes(search.images, runs, test),
    )


def _val_scores(chosen: RunResult, metric: str) -> dict[str, dict[str, float]]:
    """Return the last scores on val; nothing where there is no val split."""
    last = chosen.last
    return {"val": {metric: last[f"val_{metric}"], "loss": last["val_loss"]}} if "val_loss" in last else {}


def _history(runs: SearchRuns) -> list[dict[str, Any]]:
    """Return a row for each run of the grid, then the curve of the chosen run, then that of the one trained again."""
    rows = [
        {
            **result.last,
            "phase": "grid",
            "step": result.steps,
            "status": result.status,
            "learning_rate": result.recipe["learning_rate"],
            "weight_decay": result.recipe["weight_decay"],
        }
        for result in runs.grid
    ]
    rows += [{**row, "phase": "chosen"} for row in runs.chosen.history]
    return rows + ([{**row, "phase": "retrained"} for row in runs.final.history] if runs.retrained else [])


def _notes(images: ImageSet, runs: SearchRuns, test: Evaluation) -> list[str]:
    notes = [
        f"diverged and not chosen from: learning rate {run.recipe['learning_rate']:g}, "
        f"weight decay {run.recipe['weight_decay']:g}"
        for run in runs.grid
        if run.status == "diverged"
    ]
    failed = {str(images.ids_N[row]): reason for row, reason in test.failed.items()}
    left_out = {name: reason for run in runs.distinct for name, reason in run.left_out.items()} | failed
    return notes + [f"left out {name}: {reason}" for name, reason in sorted(left_out.items())]
