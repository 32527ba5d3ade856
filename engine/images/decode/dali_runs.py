"""Run DALI pipelines: keep built ones, tell a bad sample from a fault, and count which library decoded what."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from penultimate.store.errors import DecodeError, MemoryLimitError

Item = TypeVar("Item")
Output = TypeVar("Output")
Built = TypeVar("Built")

MAX_GPU_THREADS = 16
"""Largest number of threads of a pipeline whose decoder is on a GPU. They parse files and launch kernels; further
cores serve to read files and to run Pillow. Not measured."""

RUN_PIXELS = 2**29
"""Largest number of decoded pixels in one run on a GPU (1.5 GiB), so that large photographs do not fill it: a batch of
256 of 24 megapixels would take 18 GB. A batch of 256 images of ImageNet's size is a tenth of it."""

_UNDECODABLE = ("Failed to decode sample #", "nvImageCodec failure: '#3'", "nvImageCodec failure: '#4'")
"""Parts of the errors that DALI 2 raises for a sample: decoding failed, or nvImageCodec's parser refused it
(``NVIMGCODEC_STATUS_BAD_CODESTREAM`` and ``_CODESTREAM_UNSUPPORTED`` of nvimgcodec.h)."""

_OUT_OF_MEMORY = ("Can't allocate", "out of memory", "bad_alloc", "nvImageCodec failure: '#5'")
"""Parts of the errors that DALI, CUDA, C++ and nvImageCodec (``_ALLOCATOR_FAILURE``) raise where memory is short."""

_SUSPICIOUS = 4
"""Number of images from which on it is no accident if DALI decodes none of them and Pillow most."""


@dataclass(slots=True)
class DecodeCounts:
    """Numbers of images that each library has decoded for one decoder or augmenter.

    An image that could not be decoded counts where that was found out. Several threads may add to the numbers.
    """

    dali: int = 0
    """Number of images decoded by DALI."""

    pillow: int = 0
    """Number of images decoded by Pillow, for their kind or size or because DALI refused them."""

    refused_runs: int = 0
    """Number of pipeline runs that DALI broke off because a sample cannot be decoded."""

    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def add(self, *, dali: int = 0, pillow: int = 0, refused_runs: int = 0) -> None:
        """Add to the numbers."""
        with self._lock:
            self.dali += dali
            self.pillow += pillow
            self.refused_runs += refused_runs


def is_undecodable(error: RuntimeError) -> bool:
    """Return whether DALI raised ``error`` because of a sample's bytes; any other is a fault of machine or program."""
    return any(part in str(error) for part in _UNDECODABLE)


def runs_within(items: Iterable[Item], num_pixels: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Cut items into consecutive runs of at most ``RUN_PIXELS`` decoded pixels, or of one item with more."""
    run: list[Item] = []
    total = 0
    for item in items:
        pixels = num_pixels(item)
        if run and total + pixels > RUN_PIXELS:
            yield run
            run, total = [], 0
        run.append(item)
        total += pixels
    if run:
        yield run


def run_or_halve(
    run: Callable[[Sequence[Item]], Output], items: Sequence[Item], counts: DecodeCounts
) -> Iterator[tuple[Sequence[Item], Output | None]]:
    """Yield parts of ``items``, in order, each with the output of ``run``, or None for one that DALI cannot decode.

    DALI breaks off a run because of one bad sample, and does not always say which. Such a run is repeated in halves, so
    that every other image is decoded by DALI still and its pixels do not depend on a bad neighbour.

    Raises MemoryLimitError where DALI finds no memory, and every other error of DALI as it is.
    """
    if not items:
        return
    output = _run(run, items)
    if output is not None:
        counts.add(dali=len(items))
        yield items, output
        return
    counts.add(refused_runs=1)
    if len(items) == 1:
        yield items, None
        return
    half = len(items) // 2
    yield from run_or_halve(run, items[:half], counts)
    yield from run_or_halve(run, items[half:], counts)


def _run(run: Callable[[Sequence[Item]], Output], items: Sequence[Item]) -> Output | None:
    """Return the output of ``run``, or None if DALI cannot decode one of the items."""
    try:
        return run(items)
    except RuntimeError as error:
        if any(part in str(error) for part in _OUT_OF_MEMORY):
            raise MemoryLimitError(
                f"DALI has not enough memory to decode {len(items)} images at once "
                f"({' '.join(str(error).split())[-160:]}); lower --batch-size, or choose --decoder dali"
            ) from error
        if not is_undecodable(error):
            raise
        return None


def refuse_if_dali_is_broken(*, num_run: int, num_by_dali: int, num_by_pillow: int) -> None:
    """Raise DecodeError if DALI decoded none of ``num_run`` images and Pillow, called for all of them, most.

    A driver or library that does not work must not pass for a folder of damaged files.
    """
    if num_run >= _SUSPICIOUS and num_by_dali == 0 and 2 * num_by_pillow > num_run:
        raise DecodeError(
            f"DALI decodes none of {num_run} images and Pillow decodes {num_by_pillow} of them: DALI, nvImageCodec or "
            "the driver do not work here; choose --decoder pillow, or mend the installation"
        )


class IdlePipelines(Generic[Built]):
    """Built pipelines that no call uses at the moment; building one takes milliseconds on a CPU and more on a GPU."""

    def __init__(self, *, capacity: int = 2) -> None:
        """Keep at most ``capacity`` pipelines, the most recently used, since each holds buffers."""
        self._capacity = capacity
        self._idle: list[tuple[Hashable, Built]] = []
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(self, key: Hashable, build: Callable[[], Built]) -> Iterator[Built]:
        """Give a pipeline made under ``key`` to one caller, or what ``build`` returns; one that raised is dropped."""
        with self._lock:
            found = next((place for place in reversed(self._idle) if place[0] == key), None)
            if found is not None:
                self._idle.remove(found)
        pipeline = build() if found is None else found[1]
        yield pipeline
        with self._lock:
            self._idle = [*self._idle, (key, pipeline)][-self._capacity :]
