"""A local folder whose writer dies at a chosen change."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from penultimate.store.objects.durable_files import DurableFiles
from penultimate.store.objects.local import LocalObjects


class Killed(BaseException):
    """Simulates the end of the process, so that no handler of ordinary errors may catch it."""


class Death:
    """Lets the nth change be the last, made or not, whichever thread makes it; all that come later are not made."""

    def __init__(self, *, at: int, after: bool) -> None:
        self._at, self._after = at, after
        self._numbers = itertools.count()  # of which each thread takes one at a time

    @contextmanager
    def change(self) -> Iterator[None]:
        number = next(self._numbers)
        if number > self._at or (number == self._at and not self._after):
            raise Killed
        yield
        if number == self._at:
            raise Killed


class DyingFiles(DurableFiles):
    def __init__(self, root: Path, death: Death) -> None:
        super().__init__(root)
        self._death = death

    def _write_partial(self, path: Path, parts: Sequence[bytes | memoryview]) -> Path:
        try:
            with self._death.change():
                return super()._write_partial(path, parts)
        except Killed:
            path.with_name(f"{path.name}.torn.partial").write_bytes(b"".join(parts)[:-1])
            raise

    def _rename(self, partial: Path, path: Path) -> None:
        with self._death.change():
            super()._rename(partial, path)


class DyingObjects(LocalObjects):
    """A local folder whose writer dies at the nth change it makes, before or after the change is made."""

    def __init__(self, root: Path, *, at: int, after: bool) -> None:
        super().__init__(root)
        self._death = Death(at=at, after=after)
        self._files = DyingFiles(root, self._death)

    def delete(self, name: str) -> None:
        with self._death.change():
            super().delete(name)

    def delete_folder(self, folder: str) -> None:
        with self._death.change():
            super().delete_folder(folder)

    def delete_leftovers(self, folder: str) -> None:
        with self._death.change():
            super().delete_leftovers(folder)
