"""Observers: where the progress of a run goes. JSON lines always; TensorBoard, MLflow and W&B only if asked for."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from penultimate.engine.train.recipe import Recipe
from penultimate.store.errors import UnavailableError, UnknownNameError

Row = Mapping[str, Any]
"""``event`` (``step``, ``evaluation``, ``resumed``, ``diverged``, ``finished``), ``step``, ``epoch``, and numbers."""


class Observer(Protocol):
    """Hears what happens in one run, in order."""

    def hear(self, row: Row) -> None:
        """One event."""

    def close(self) -> None:
        """The run has ended or was interrupted."""


class JsonLines:
    """Appends each event to ``<run>/log.jsonl`` with the seconds since 1970.

    A resumed run repeats the updates after its checkpoint: of rows with one event and step the last counts.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")

    def hear(self, row: Row) -> None:
        """See Observer; ``allow_nan`` because a diverged loss is one."""
        self._file.write(json.dumps({"time": round(time.time(), 3), **row}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See Observer."""
        self._file.close()


class TensorBoard:
    """Scalars under ``<run>/tensorboard``; for ``tensorboard --logdir``."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UnavailableError(f"--log tensorboard needs a package: pip install tensorboard ({error})") from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def hear(self, row: Row) -> None:
        """See Observer."""
        for name, value in _scalars(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """See Observer."""
        self._writer.close()


class MlFlow:
    """One MLflow run a run, named by the recipe's digest, at the tracking address that MLflow is set up for."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise UnavailableError(f"--log mlflow needs a package: pip install mlflow ({error})") from error
        self._mlflow = mlflow
        mlflow.start_run(run_name=recipe.digest)
        mlflow.log_params(recipe.as_dict())

    def hear(self, row: Row) -> None:
        """See Observer."""
        self._mlflow.log_metrics(_scalars(row), step=row["step"])

    def close(self) -> None:
        """See Observer."""
        self._mlflow.end_run()


class WeightsAndBiases:
    """One W&B run a run, its id the recipe's digest, so that a resumed run goes on in it."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UnavailableError(f"--log wandb needs a package: pip install wandb ({error})") from error
        self._run = wandb.init(
            project="penultimate", id=recipe.digest, resume="allow", dir=str(folder), config=recipe.as_dict()
        )

    def hear(self, row: Row) -> None:
        """See Observer."""
        self._run.log(_scalars(row), step=row["step"])

    def close(self) -> None:
        """See Observer."""
        self._run.finish()


OBSERVERS: dict[str, Callable[[Path, Recipe], Observer]] = {
    "jsonl": JsonLines,
    "tensorboard": TensorBoard,
    "mlflow": MlFlow,
    "wandb": WeightsAndBiases,
}
"""Name -> constructor, from the run's folder and its recipe."""


def make_observers(names: tuple[str, ...], folder: Path, recipe: Recipe) -> list[Observer]:
    """JSON lines and those named. Raises UnknownNameError, or UnavailableError where a package is not installed."""
    for name in names:
        if name not in OBSERVERS:
            raise UnknownNameError("log", name, OBSERVERS)
    with ExitStack() as opened:  # those already open are closed if a later one cannot be
        observers = []
        for name in dict.fromkeys(("jsonl", *names)):
            observers.append(OBSERVERS[name](folder, recipe))
            opened.callback(observers[-1].close)
        opened.pop_all()
    return observers


def _scalars(row: Row) -> dict[str, float]:
    kind = row["event"]
    return {f"{kind}/{name}": float(v) for name, v in row.items() if name not in ("event", "step") and _number(v)}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
