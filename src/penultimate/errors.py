"""Every exception of penultimate; ``penultimate.store.errors`` opens with their tree."""

from penultimate.store.errors import (
    CorruptFeaturesError as CorruptFeaturesError,
)
from penultimate.store.errors import (
    DecodeError as DecodeError,
)
from penultimate.store.errors import (
    ForbiddenError as ForbiddenError,
)
from penultimate.store.errors import (
    IncompleteFeaturesError as IncompleteFeaturesError,
)
from penultimate.store.errors import (
    InputError as InputError,
)
from penultimate.store.errors import (
    LabelsError as LabelsError,
)
from penultimate.store.errors import (
    MemoryLimitError as MemoryLimitError,
)
from penultimate.store.errors import (
    NoRunConvergedError as NoRunConvergedError,
)
from penultimate.store.errors import (
    NotAStoreError as NotAStoreError,
)
from penultimate.store.errors import (
    ParityError as ParityError,
)
from penultimate.store.errors import (
    PenultimateError as PenultimateError,
)
from penultimate.store.errors import (
    RunInterruptedError as RunInterruptedError,
)
from penultimate.store.errors import (
    StoreBusyError as StoreBusyError,
)
from penultimate.store.errors import (
    StoreError as StoreError,
)
from penultimate.store.errors import (
    TasksFailedError as TasksFailedError,
)
from penultimate.store.errors import (
    UnavailableError as UnavailableError,
)
from penultimate.store.errors import (
    UnknownNameError as UnknownNameError,
)
from penultimate.store.errors import (
    VanishedImageError as VanishedImageError,
)

__all__ = [
    "CorruptFeaturesError",
    "DecodeError",
    "ForbiddenError",
    "IncompleteFeaturesError",
    "InputError",
    "LabelsError",
    "MemoryLimitError",
    "NoRunConvergedError",
    "NotAStoreError",
    "ParityError",
    "PenultimateError",
    "RunInterruptedError",
    "StoreBusyError",
    "StoreError",
    "TasksFailedError",
    "UnavailableError",
    "UnknownNameError",
    "VanishedImageError",
]
