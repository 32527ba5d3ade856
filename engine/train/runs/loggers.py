"""Write the progress of a run: always as JSON lines, and for TensorBoard if requested."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from penultimate.store.errors import UnavailableError

Row = Mapping[str, Any]
"""One event: ``event`` (``step``, ``evaluation``, ``resumed``, ``diverged``, ``finished``), ``step``, ``epoch``, and
numbers."""


class Logger(Protocol):
    """Receives the events of one run, in order."""

    def log(self, row: Row) -> None:
        """Write one event."""

    def close(self) -> None:
        """Write what is buffered; the run has ended or was interrupted."""


class JsonLines:
    """Appends each event to ``<run>/log.jsonl`` with the seconds since 1970.

    A resumed run repeats the updates after its checkpoint: of several rows with one event and step, the last counts.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")

    def log(self, row: Row) -> None:
        """Write one line, at once. NaN is written as such, because a diverged loss is one."""
        self._file.write(json.dumps({"time": round(time.time(), 3), **row}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Writes scalars below ``<run>/tensorboard``, for ``tensorboard --logdir``."""

    def __init__(self, folder: Path) -> None:
        """Raises UnavailableError where the package is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UnavailableError(
                f"logs=tensorboard needs a package: pip install 'penultimate[tensorboard]' ({error})"
            ) from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, row: Row) -> None:
        """Write every number of the row as a scalar named ``<event>/<name>``."""
        for name, value in row.items():
            if name not in ("event", "step") and isinstance(value, int | float):
                self._writer.add_scalar(f"{row['event']}/{name}", float(value), row["step"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


LOGGERS: dict[str, Callable[[Path], Logger]] = {"tensorboard": TensorBoard}
"""Name -> constructor, which takes the run's folder."""


def make_loggers(names: tuple[str, ...], folder: Path) -> list[Logger]:
    """Open the JSON lines and the named loggers. Raises UnavailableError where a package is not installed."""
    with ExitStack() as opened:  # those already open are closed if a later one cannot be
        loggers: list[Logger] = []
        for make in (JsonLines, *(LOGGERS[name] for name in dict.fromkeys(names))):
            loggers.append(make(folder))
            opened.callback(loggers[-1].close)
        opened.pop_all()
    return loggers
