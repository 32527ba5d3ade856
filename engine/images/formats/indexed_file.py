"""IndexedFile is a file of many samples whose positions in it were listed once, and that must stay as it was."""

from dataclasses import dataclass
from pathlib import Path

from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.store.errors import VanishedImageError


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file with the fingerprint it had before it was indexed.

    Of another file in its place, the bytes at a listed position belong to some other sample, or to none.
    """

    path: Path
    fingerprint: FileFingerprint

    @classmethod
    def of(cls, path: Path) -> "IndexedFile":
        """Return the file at ``path`` as it is now; raise OSError if it is gone."""
        return cls(path, FileFingerprint.of(path))

    def check(self, descriptor: int | None = None) -> None:
        """Raise VanishedImageError if the file at the path, or the open one, is not any more the one that was indexed.

        A new name, a further link or other permissions, which move the change time alone, are no change.
        """
        try:
            now = FileFingerprint.of(self.path if descriptor is None else descriptor)
        except OSError as error:
            raise gone(str(self.path), error.strerror or str(error)) from error
        if now[:3] != self.fingerprint[:3]:
            raise changed(str(self.path))


def gone(what: str, reason: str) -> VanishedImageError:
    """Return the error to raise where a file of samples has been removed since it was listed."""
    return VanishedImageError(
        f"{what} was there when it was listed and cannot be read now: {reason.lower()}; bring it back and run again to "
        "resume (without it the set is another one)"
    )


def changed(what: str) -> VanishedImageError:
    """Return the error to raise where a file of samples has been changed since it was listed."""
    return VanishedImageError(f"{what} was changed after it was listed; run again to extract the set as it is now")
