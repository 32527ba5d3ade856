"""Print the progress of training on stderr in plain lines, so that a log file reads like a terminal."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from penultimate.engine.train.recipe import Recipe

_SECONDS_BETWEEN_LINES = 5.0


class TrainingProgress:
    """Prints the events of training runs, which are described at ``loggers.Row``."""

    def __init__(self) -> None:
        self._last_line = float("-inf")

    def __call__(self, recipe: Recipe, row: Mapping[str, Any]) -> None:
        """Print one event: updates at most every few seconds, evaluations and endings always."""
        now = time.monotonic()
        if row["event"] == "step" and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        rate, decay = f"{recipe.learning_rate:g}", f"{recipe.weight_decay:g}"
        where = f"{recipe.digest[:8]} (learning rate {rate}, weight decay {decay}) {row['step']:,}/{recipe.steps:,}"
        print(f"{where}: {_event_text(row)}", file=sys.stderr)


def _event_text(row: Mapping[str, Any]) -> str:
    if row["event"] == "step":
        return (
            f"loss {row['loss']:.4f}, learning rate now {row['learning_rate']:.3g}, "
            f"{row['images_per_second']:,.1f} images/s, about {row['seconds_left']:,.0f} s left"
        )
    if row["event"] == "evaluation":
        scores = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items() if name.startswith("val_")]
        return ", ".join([f"train loss {row['train_loss']:.4f}", *scores])
    return str(row["event"])
