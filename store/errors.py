"""Every exception of penultimate.

    PenultimateError                 exit code 1: a run failed
    ├── InputError (ValueError)      exit code 2: what was asked for cannot be; nothing was started
    │   ├── UnknownNameError         a name that is not in its list; carries the nearest ones
    │   ├── UnavailableError         a device, decoder, solver, dtype or package that is not here
    │   └── NotAStoreError           a path that holds no feature store or trial log
    ├── StoreError (OSError)
    │   ├── IncompleteFeaturesError  shards are missing; extract resumes
    │   ├── StoreBusyError           another process is writing these rows
    │   └── CorruptFeaturesError     bytes that differ from their commit record
    ├── VanishedImageError (OSError) an image is gone, or another one, since its set was digested
    ├── DecodeError (RuntimeError)   no image could be decoded
    ├── MemoryLimitError (MemoryError)  one image alone does not fit beside the network
    ├── ParityError (ArithmeticError)   features too far from the reference's
    ├── TasksFailedError (RuntimeError)  parts of a job failed on a cluster, the others are done
    ├── NoRunConvergedError (RuntimeError)  every training run of a grid diverged
    └── RunInterruptedError          exit code 130: asked to stop, checkpointed; the same command goes on

Each also derives from the built-in it refines. The command line prints the message, one line, and leaves
with ``exit_code``.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class PenultimateError(Exception):
    """Base of all that penultimate raises on purpose."""

    exit_code = 1


class InputError(PenultimateError, ValueError):
    """Wrong usage or input."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that is not in its list."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, nearest: Sequence[str] | None = None) -> None:
        """``nearest``: what to suggest, where the caller knows better than a comparison of spellings."""
        names = sorted(known)
        nearest = get_close_matches(name, names, n=3, cutoff=0.5) if nearest is None else nearest
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join(names[:20])}"
        super().__init__(f"no {kind} named {name!r}; {hint}")


class UnavailableError(InputError):
    """Something asked for by name exists but not on this machine."""


class NotAStoreError(InputError):
    """A path that holds no feature store, or no trial log."""


class StoreError(PenultimateError, OSError):
    """The store cannot be read or written."""


class IncompleteFeaturesError(StoreError):
    """Some shards have no commit record yet."""


class StoreBusyError(StoreError):
    """Another writer holds the claim on these shards."""


class CorruptFeaturesError(StoreError):
    """Stored bytes differ from their commit record."""


class VanishedImageError(PenultimateError, OSError):
    """An image that was read when its set was digested cannot be read again, or has other content."""


class DecodeError(PenultimateError, RuntimeError):
    """Not one image of a set could be decoded."""


class MemoryLimitError(PenultimateError, MemoryError):
    """A batch was halved until one image was left, and that did not fit."""


class ParityError(PenultimateError, ArithmeticError):
    """A decoder, resize or precision gives features further from the reference than its tolerance."""


class TasksFailedError(PenultimateError, RuntimeError):
    """Some tasks of a cluster failed each time they were tried; the others ended well."""


class NoRunConvergedError(PenultimateError, RuntimeError):
    """There is nothing to choose from: every run of a grid diverged."""


class RunInterruptedError(PenultimateError):
    """A training run stopped because it was asked to, after a checkpoint."""

    exit_code = 130
