"""Train one run in its folder: begin it, resume it, or return its result if it has ended.

Whatever kills it costs at most the updates since its last checkpoint. Resumed, it ends with the weights of a run that
was never stopped, bit for bit on the CPU.

    <folder>/recipe.json         the Recipe
    <folder>/log.jsonl           every event; updates that a resumed run repeats appear twice
    <folder>/last.pt, best.pt    checkpoints: where to go on, and the best on val so far
    <folder>/model.safetensors   what was learned, and
    <folder>/config.json         its architecture and input: together what timm calls ``local-dir:``
    <folder>/result.json         RunResult; written last
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.images.decode.factory import make_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.whole_file import write_whole
from penultimate.engine.train.augment.augmenter import AugmentedBatch, CropSettings, augmented
from penultimate.engine.train.augment.draws import BatchDraws, draw_batch
from penultimate.engine.train.augment.factory import make_augmenter
from penultimate.engine.train.evaluate import evaluate
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.learner.network import InitialModel
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.rows import split_rows, training_rows
from penultimate.engine.train.runs.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from penultimate.engine.train.runs.interrupt import interruptible
from penultimate.engine.train.runs.lock import locked
from penultimate.engine.train.runs.loggers import Logger, make_loggers
from penultimate.engine.train.runs.meters import LossMean, Pace
from penultimate.engine.train.runs.resources import Resources
from penultimate.engine.train.runs.run_result import RunResult
from penultimate.engine.train.runs.trained_network import save_trained
from penultimate.engine.train.world import local_batch_size
from penultimate.store.errors import RunInterruptedError

# Shapes: M training images.

_ASK_EVERY = 10
"""Updates between the questions of several processes to each other whether to stop: an answer waits for the GPU."""


def train_run(images: ImageSet, initial: InitialModel, recipe: Recipe, folder: Path, resources: Resources) -> RunResult:
    """Train ``recipe`` in ``folder``, resume it there, or read its result if it has ended.

    Raises RunInterruptedError after a checkpoint if a stop was requested, StoreBusyError if another process trains
    in this folder, InputError for a checkpoint of another recipe and for what the recipe and the images do not allow,
    StoreError if a checkpoint cannot be written.
    """
    ended = RunResult.read(folder)
    if ended is not None:
        return ended
    rows_M = training_rows(images, recipe)
    local_batch_size(recipe.batch_size, resources.world)
    folder.mkdir(parents=True, exist_ok=True)
    cuda = [resources.world.device] if resources.world.device.type == "cuda" else []
    with locked(folder, alone=resources.world.is_main), torch.random.fork_rng(devices=cuda):
        run = _Run(images, initial, recipe, folder, resources, rows_M)
        try:
            return run.to_the_end()
        finally:
            run.close()


class _Run:
    """A run while its process lives."""

    def __init__(
        self,
        images: ImageSet,
        initial: InitialModel,
        recipe: Recipe,
        folder: Path,
        resources: Resources,
        rows_M: NDArray[np.int64],
    ) -> None:
        self.images, self.initial, self.recipe, self.folder, self.resources = images, initial, recipe, folder, resources
        self.world = resources.world
        self.rows_M = rows_M
        self.steps_per_epoch = len(rows_M) // recipe.batch_size
        self.val_rows = split_rows(images, "val") if "val" not in recipe.splits else np.empty(0, np.int64)
        self.learner = Learner(
            initial,
            recipe,
            num_classes=len(images.class_names),
            steps_per_epoch=self.steps_per_epoch,
            world=self.world,
        )
        self.augmenter = make_augmenter(recipe.augmenter, num_workers=resources.num_workers, device=self.world.device)
        self.decoder = make_decoder(recipe.decoder, num_workers=resources.num_workers)
        self.loggers: list[Logger] = []
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}
        self.losses = LossMean(self.world.device)
        self.seconds_before = 0.0
        self.began = time.monotonic()
        self._resume()
        if self.world.is_main:
            write_whole(folder / "recipe.json", json.dumps(recipe.as_dict(), indent=1))
            self.loggers = make_loggers(resources.settings.logs, folder)
        self.pace = Pace(self.step)

    def close(self) -> None:
        """Close the loggers, which may buffer."""
        for logger in self.loggers:
            logger.close()

    def to_the_end(self) -> RunResult:
        """Update until the budget is spent, the loss is not finite, or a stop is requested."""
        with interruptible() as interrupt:
            if self.step:
                self.tell("resumed")
            for batch in self._batches():
                self._update(batch)
                if not self._looks_finite():
                    return self._end("diverged")
                stop = self._stops(interrupt.requested)
                if stop or self._at(self.resources.settings.checkpoint_every):
                    with self.pace.paused():
                        self._checkpoint(LAST)
                if stop:
                    raise RunInterruptedError(
                        f"stopped after {self.step} of {self.recipe.steps} updates and checkpointed in {self.folder}; "
                        "run the same command again to go on there"
                    )
        return self._end("finished")

    def _stops(self, requested: bool) -> bool:
        """Return whether to stop before the budget is spent: a stop was ``requested`` in any process of the world."""
        if self.world.size > 1 and not self._at(_ASK_EVERY):
            return False
        return self.step < self.recipe.steps and self.world.any(requested)

    def _looks_finite(self) -> bool:
        """Log and evaluate where this update is due for it; False if either finds a number that is not finite."""
        if self._at(self.resources.settings.log_every) and not self._log():
            return False
        if self.recipe.evaluates_after(self.step):
            with self.pace.paused():
                return self._evaluate()
        return True

    def _batches(self) -> Iterator[AugmentedBatch]:
        def draws() -> Iterator[BatchDraws]:
            for step in range(self.step, self.recipe.steps):
                yield draw_batch(self.recipe, self.rows_M, step).part(self.world.rank, self.world.size)

        return augmented(self.augmenter, self.images, draws(), CropSettings.of(self.recipe))

    def _update(self, batch: AugmentedBatch) -> None:
        for row, reason in batch.failed.items():
            self.left_out[str(self.images.ids_N[row])] = reason
        targets = torch.from_numpy(self.images.labels_N[batch.rows_B])
        self.losses.add(self.learner.update(self.step, batch.images_BHWC, targets))
        self.step += 1

    def _at(self, every: int) -> bool:
        return self.step % every == 0

    def _log(self) -> bool:
        """Log loss and speed; False if the loss has stopped being finite."""
        loss = self.losses.take("log", self.world)
        self.tell(
            "step",
            loss=loss,
            learning_rate=self.learner.learning_rate,
            images_per_second=self.pace.lap(self.step) * self.recipe.batch_size,
            seconds_left=(self.recipe.steps - self.step) / self.pace.rate(self.step),
        )
        return math.isfinite(loss)

    def _evaluate(self) -> bool:
        """Add a row to the history and checkpoint the best; False if the loss has stopped being finite."""
        row: dict[str, Any] = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "learning_rate": self.learner.learning_rate,
            "train_loss": self.losses.take("evaluation", self.world),
        }
        metric = f"val_{self.images.metric}"
        if len(self.val_rows) and math.isfinite(row["train_loss"]):
            row |= self._scores(metric)
        if not all(math.isfinite(number) for number in row.values()):
            return False
        if metric in row and row[metric] > max((earlier[metric] for earlier in self.history), default=-1.0):
            self._checkpoint(BEST)
        self.history.append(row)
        self.tell("evaluation", **{name: value for name, value in row.items() if name not in ("step", "epoch")})
        return True

    def _scores(self, metric: str) -> dict[str, float]:
        found = evaluate(
            self.learner.evaluated,
            self.images,
            self.val_rows,
            self.recipe,
            decoder=self.decoder,
            batch_size=self.resources.settings.eval_batch_size,
            world=self.world,
        )
        self.left_out |= {str(self.images.ids_N[row]): reason for row, reason in found.failed.items()}
        return {"val_loss": found.loss, metric: found.score(self.images.metric)}

    def tell(self, event: str, **numbers: float) -> None:
        """Pass one event to the loggers and to the callback of ``resources``."""
        row = {"event": event, "step": self.step, "epoch": self.step / self.steps_per_epoch, **numbers}
        for logger in self.loggers:
            logger.log(row)
        if self.world.is_main:
            self.resources.report(self.recipe, row)

    def _checkpoint(self, name: str) -> None:
        state = {
            "step": self.step,  # the data order and every generator are functions of it: see ``draws``
            "learner": self.learner.state(),
            "history": self.history,
            "left_out": self.left_out,
            "losses": self.losses.state(self.world),
            "wall_seconds": self._wall_seconds(),
        }
        if self.world.is_main:
            save_checkpoint(self.folder / name, self.recipe, state)
        self.world.barrier()

    def _resume(self) -> None:
        path = self.folder / LAST
        if not path.exists():
            return
        state = load_checkpoint(path, self.recipe, self.world.device)
        self.learner.restore(state["learner"])
        self.losses.restore(state["losses"])
        self.step, self.history, self.left_out = state["step"], state["history"], state["left_out"]
        self.seconds_before = state["wall_seconds"]

    def _wall_seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _end(self, status: Literal["finished", "diverged"]) -> RunResult:
        if status == "finished":
            self._checkpoint(LAST)
        result = RunResult(
            recipe=self.recipe.as_dict(),
            status=status,
            steps=self.step,
            history=self.history,
            left_out={name: why for part in self.world.gather(self.left_out) for name, why in part.items()},
            wall_seconds=self._wall_seconds(),
        )
        if self.world.is_main:
            if status == "finished":
                save_trained(self.folder, self.learner.weights(), self.recipe, self.images)
            result.write(self.folder)
        self.tell(status)
        self.world.barrier()
        return result
