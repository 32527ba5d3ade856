"""All exceptions of penultimate.

    PenultimateError                 exit code 1: a run failed
    ├── InputError (ValueError)      exit code 2: the request or the input is wrong; nothing was started
    │   ├── UnknownNameError         a name that does not exist; the message gives the nearest ones
    │   ├── LabelsError              labels are missing or contradict each other; without them, images can be read
    │   ├── UnavailableError         a device, decoder, solver, dtype or package this machine lacks
    │   ├── ForbiddenError           an object store refuses a request with these credentials
    │   └── NotAStoreError           no feature store or trial log lies at this location
    ├── StoreError (OSError)
    │   ├── IncompleteFeaturesError  shards are missing; extract resumes
    │   ├── StoreBusyError           another process is writing these rows
    │   └── CorruptFeaturesError     bytes that differ from their commit record
    ├── VanishedImageError (OSError) an image was removed or changed since its set was digested
    ├── DecodeError (RuntimeError)   no image could be decoded
    ├── MemoryLimitError (MemoryError)  one image alone does not fit beside the network
    ├── ParityError (ArithmeticError)   features too far from the reference's
    ├── TasksFailedError (RuntimeError)  some tasks failed on a cluster, the others are done
    ├── NoRunConvergedError (RuntimeError)  every training run of a grid diverged
    └── RunInterruptedError          exit code 130: stopped on request after a checkpoint; the same command resumes

Each also derives from the built-in exception in parentheses. The command line prints the message as one line and exits
with ``exit_code``.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class PenultimateError(Exception):
    """Base class of every exception that penultimate raises on purpose."""

    exit_code = 1


class InputError(PenultimateError, ValueError):
    """The request or its input is wrong; nothing was started."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name does not exist; the message gives the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, nearest: Sequence[str] | None = None) -> None:
        """``nearest``: what to suggest, where the caller knows better than a comparison of spellings."""
        names = sorted(known)
        nearest = get_close_matches(name, names, n=3, cutoff=0.5) if nearest is None else nearest
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join(names[:20])}"
        super().__init__(f"no {kind} named {name!r}; {hint}")


class LabelsError(InputError):
    """Labels are missing or contradict each other; without labels, the images can be read."""

    def __init__(self, problem: str, remedy: str) -> None:
        """``remedy``: what to do to have labels, in the imperative."""
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}, or take the images without labels (--no-labels; in Python labels=False)"

    def where_labels_are_needed(self) -> InputError:
        """Return the error to raise in place of this one where labels cannot be done without, as in training."""
        return InputError(f"{self.problem}; {self.remedy} (nothing can be learned without labels)")


class UnavailableError(InputError):
    """A device, decoder, solver, dtype or package exists, but not on this machine."""


class ForbiddenError(InputError):
    """An object store refuses a request with these credentials."""


class NotAStoreError(InputError):
    """No feature store, or no trial log, lies at this location."""


class StoreError(PenultimateError, OSError):
    """The store cannot be read or written."""


class IncompleteFeaturesError(StoreError):
    """Some shards of the key have no commit record yet."""


class StoreBusyError(StoreError):
    """Another writer holds a claim on some of these shards."""


class CorruptFeaturesError(StoreError):
    """Stored bytes differ from their commit record."""


class VanishedImageError(PenultimateError, OSError):
    """An image was removed or changed after its set was digested."""


class DecodeError(PenultimateError, RuntimeError):
    """No image of a set could be decoded."""


class MemoryLimitError(PenultimateError, MemoryError):
    """One image alone does not fit into memory beside the network."""


class ParityError(PenultimateError, ArithmeticError):
    """A decoder, resize or precision moves features further from the reference than its tolerance allows."""


class TasksFailedError(PenultimateError, RuntimeError):
    """Some tasks of a cluster failed at every attempt; the others succeeded."""


class NoRunConvergedError(PenultimateError, RuntimeError):
    """Every training run of a grid diverged, so that there is none to choose."""


class RunInterruptedError(PenultimateError):
    """A training run stopped on request, after writing a checkpoint."""

    exit_code = 130
