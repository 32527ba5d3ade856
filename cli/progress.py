"""Show the progress of a long verb on stderr: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


class ImageProgress:
    """Shows progress: ``with ImageProgress("caltech101") as report:`` gives a callable of (done, total) images."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()
        self._last_line = self._started
        self._terminal = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._terminal,
        )
        self._task: TaskID = self._bar.add_task(title, total=None, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images are done, at the mean rate since the call with 0, warm-up included."""
        now = time.monotonic()
        if not done:
            self._started = now
            return
        self.show(done, total, done / max(now - self._started, 1e-9))

    def show(self, done: int, total: int, rate: float, detail: str = "") -> None:
        """Show the number of images done and a rate in images/s, followed by ``detail``."""
        now = time.monotonic()
        if self._terminal:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:,.1f} images/s{detail}")
        elif now - self._last_line > _SECONDS_BETWEEN_LINES or done == total:
            self._last_line = now
            left = f", about {(total - done) / rate:,.0f} s left" if done < total and rate else ""
            print(f"{self._title}: {done:,}/{total:,} images, {rate:,.1f} images/s{detail}{left}", file=sys.stderr)
