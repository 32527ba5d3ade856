"""``bench decode``: decoders alone, by kind of file: the package's own, and torchvision's as a script would use it."""

import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from penultimate.engine.bench.extract import sample_of
from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Progress, TurnOptions, no_progress, take_turns, timed
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.factory import make_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.options import SourceOptions
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.subset import subset
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.device_options import DecodingOptions
from penultimate.engine.runtime.option_types import Count
from penultimate.engine.runtime.prefetch import prefetch_map
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.errors import DecodeError, UnavailableError

# Shapes: B images of a batch, H x W pixels, C = 3 channels.

TORCH = "torchvision"

_LOOKED_AT = 1024
"""Largest number of images whose kind is looked up, evenly spaced in the set."""

_FEWEST = 8
"""Number of images below which a kind of file is left out."""

_BATCH = 64


class DecodeBench(SourceOptions, DecodingOptions, TurnOptions):
    """All options of ``penultimate bench decode`` besides images."""

    size: Count = 224
    """Side of the square that images are resized to, in pixels."""


def bench_decode(
    locations: Sequence[str],
    options: DecodeBench,
    *,
    command: Sequence[str],
    root: Path | None = None,
    num_images: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure every decoder that is here, on each kind of file among these images.

    Raises what ``load_images`` raises, and DecodeError where no kind has enough images.
    """
    whole = load_images(locations, root=root, labels=False, **options.part(SourceOptions).model_dump())
    kinds, few = kinds_of(sample_of(whole, num_images or _LOOKED_AT))
    if not kinds:
        raise DecodeError(f"no kind of file has {_FEWEST} images in {whole.name}: {few}")
    decoders, missing = decoders_here(options)
    turn_seconds = options.seconds / (1 + options.rounds) / (len(kinds) * (len(decoders) + 1))
    benches = [_Bench(kind, images, options) for kind, images in kinds.items()]
    if num_images is None:
        for bench in benches:
            bench.shorten(turn_seconds)
    contenders = [each for bench in benches for each in bench.contenders(decoders)]
    laps = take_turns(contenders, options.part(TurnOptions), progress=progress)
    return Report(
        bench="decode",
        title=f"Decoding {whole.name}",
        command=command,
        settings={
            "set": whole.name,
            "size": options.size,
            "resize": "the whole image, bicubic",
            "threads": options.workers or usable_cores(),
            "images": [f"{len(bench.images)} {bench.kind}" for bench in benches],
        },
        measurements=compared(laps, unit="images/s"),
        other_cores=other_cores(laps),
        findings=[
            f"{bench.kind}: {name} could not decode {count} of {len(bench.images)} images."
            for bench in benches
            for name, count in bench.failed.items()
            if count
        ],
        not_measured=[
            *missing,
            *(f"Images of kind {kind} were not measured: {count} are too few." for kind, count in few.items()),
            "Files come from the system's cache where it has them.",
        ],
    )


def decoders_here(options: DecodeBench) -> tuple[dict[str, Decoder], list[str]]:
    """Return the decoders that this machine has, and a sentence for each that it lacks."""
    found, missing = {}, []
    names = ["pillow", "dali", *(["dali-gpu"] if options.device == "cuda" else [])]
    for name in names:
        try:
            found[name] = make_decoder(name, num_workers=options.workers or usable_cores())
        except UnavailableError as error:
            missing.append(f"Not here: {error}.")
    if options.device != "cuda":
        missing.append("dali-gpu was not measured: it needs --device cuda.")
    if not has_torchvision():
        missing.append("torchvision was not measured: it is not here, or came without decoders.")
    return found, missing


def kinds_of(images: ImageSet) -> tuple[dict[str, ImageSet], dict[str, int]]:
    """Return the images of each kind of file, and the number of images of each kind that has too few."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row in range(len(images)):
        rows[_kind(images, row)].append(row)
    enough = {kind: subset(images, np.array(each)) for kind, each in sorted(rows.items()) if len(each) >= _FEWEST}
    return enough, {kind: len(each) for kind, each in rows.items() if kind not in enough}


def _kind(images: ImageSet, row: int) -> str:
    """Return format and mode of an image, such as ``JPEG RGB, progressive``; ``pixels`` of one that is an array."""
    content = images.source.read(row)
    if not isinstance(content, bytes):
        return "pixels"
    try:
        with Image.open(io.BytesIO(content)) as opened:
            progressive = ", progressive" if opened.info.get("progressive") else ""
            return f"{opened.format} {opened.mode}{progressive}"
    except (UnidentifiedImageError, OSError):
        return "unknown"


def has_torchvision() -> bool:
    """Return whether torchvision is here, with decoders of its own."""
    try:
        from torchvision.io import decode_image  # noqa: F401
    except ImportError:
        return False
    return True


class _Bench:
    """The images of one kind, and what decodes them."""

    def __init__(self, kind: str, images: ImageSet, options: DecodeBench) -> None:
        self.kind, self.images = kind, images
        half = (0.5, 0.5, 0.5)
        self._view = Preprocess(height=options.size, width=options.size, resize="whole", mean=half, std=half)
        self._workers = options.workers or usable_cores()
        self.failed: dict[str, int] = {}
        """Decoder -> number of images that it could not decode."""

    def shorten(self, seconds: float) -> None:
        """Keep as many images as Pillow decodes in so many seconds, by the time that the first few take it."""
        whole = self.images
        self.images = subset(whole, np.arange(min(len(whole), 2 * _FEWEST)))
        pillow = make_decoder("pillow", num_workers=self._workers)
        lap = timed(self._contender("pillow", lambda: self._decode("pillow", pillow)))
        fitting = int(lap.items / lap.wall_seconds * seconds)
        self.images = subset(whole, np.arange(min(len(whole), max(len(self.images), fitting))))

    def contenders(self, decoders: Mapping[str, Decoder]) -> list[Contender]:
        """Return a contender for each decoder, and torchvision if that is installed and takes such files."""
        found = [
            self._contender(name, lambda name=name, decoder=decoder: self._decode(name, decoder))  # type: ignore[misc]
            for name, decoder in decoders.items()
        ]
        if self.kind.startswith(("JPEG", "PNG")) and has_torchvision():
            found.append(self._contender(TORCH, self._torch))
        return found

    def _contender(self, name: str, run: Callable[[], Iterator[int]]) -> Contender:
        return Contender(
            name=name, group=self.kind, run=run, items=len(self.images), threads=min(self._workers, usable_cores())
        )

    def _decode(self, name: str, decoder: Decoder) -> Iterator[int]:
        """Decode and resize every image as an extraction does."""
        self.failed[name] = 0
        for batch in decoder.batches(self.images, range(len(self.images)), [self._view], batch_size=_BATCH):
            self.failed[name] += len(batch.failed)
            yield len(batch.indices_B) + len(batch.failed)

    def _torch(self) -> Iterator[int]:
        """Decode and resize every image by torchvision, an image a thread."""
        self.failed[TORCH] = 0
        single = ThreadBudget(decode=self._workers, replicas=1, per_replica=1)
        with single.in_force(), warnings.catch_warnings(), ThreadPoolExecutor(self._workers) as threads:
            # torchvision 0.29 says that torchcodec will have its decoders one day.
            warnings.simplefilter("ignore", DeprecationWarning)
            for decoded in prefetch_map(threads, self._torch_one, range(len(self.images)), depth=2 * self._workers):
                self.failed[TORCH] += not decoded
                yield 1

    def _torch_one(self, row: int) -> bool:
        """Return whether torchvision decodes an image."""
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms.v2.functional import InterpolationMode, resize

        content = self.images.source.read(row)
        assert isinstance(content, bytes), "only files are given to it"
        try:
            pixels_CHW = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError:
            return False
        size = [self._view.height, self._view.width]
        resize(pixels_CHW, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
        return True
