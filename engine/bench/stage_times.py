"""Time the stages of an extraction while they work together: how long each works, and how long it waits for others."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.images.decode.decoded_batch import DecodedBatch
from penultimate.store.feature_store import FeatureStore
from penultimate.store.writer.feature_writer import FeatureWriter

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """Wall-clock seconds of one stage within an extraction."""

    stage: str
    self_seconds: float
    """Seconds at work, over the threads of the stage. Of decoding, the seconds in which the others waited for it."""

    waiting_seconds: float
    """Seconds without work: for networks and writing, because batches had not come; for decoding, because it was ahead
    and the queue full."""

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {"stage": self.stage, "self_seconds": self.self_seconds, "waiting_seconds": self.waiting_seconds}


class StageTimes:
    """Sums of the seconds that each stage of one extraction worked."""

    def __init__(self) -> None:
        self._seconds = {"decode": 0.0, "model": 0.0, "write": 0.0}
        self._lock = threading.Lock()

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Count the time within the context as work of ``stage``; several threads may do so at once."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            with self._lock:
                self._seconds[stage] += seconds

    def timing(self, stage: str, function: Callable[Given, Result]) -> Callable[Given, Result]:
        """Return ``function``, each call of which counts as work of ``stage``."""

        def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            with self.working(stage):
                return function(*args, **kwargs)

        return call

    def within(self, wall_seconds: float, *, replicas: int) -> list[StageTime]:
        """Return the times of the stages of an extraction that took ``wall_seconds`` with so many replicas."""
        threads = {"model": replicas}
        worked = {stage: min(s / threads.get(stage, 1), wall_seconds) for stage, s in self._seconds.items()}
        return [
            StageTime(stage=stage, self_seconds=seconds, waiting_seconds=wall_seconds - seconds)
            for stage, seconds in worked.items()
        ]


def timed_extractor(extractor: Extractor, times: StageTimes) -> Extractor:
    """Return the same extractor, whose decoder and networks are timed."""
    backbones: list[Any] = [_With(each, embed=times.timing("model", each.embed)) for each in extractor.backbones]

    def batches(*args: Any, **options: Any) -> Iterator[DecodedBatch]:
        decoded = extractor.decoder.batches(*args, **options)
        while True:
            with times.working("decode"):
                batch = next(decoded, None)
            if batch is None:
                return
            yield batch

    decoder: Any = _With(extractor.decoder, batches=batches)
    return replace(extractor, backbones=backbones, decoder=decoder)


def timed_store(store: FeatureStore, times: StageTimes) -> Any:
    """Return the same store, whose writers are timed."""

    def writer(*args: Any, **options: Any) -> FeatureWriter:
        made = store.writer(*args, **options)
        made.append = times.timing("write", made.append)  # type: ignore[method-assign]  # the very methods, timed
        made.complete = times.timing("write", made.complete)  # type: ignore[method-assign]
        return made

    return _With(store, writer=writer)


class _With:
    """Another object, with some attributes replaced."""

    def __init__(self, other: Any, **replaced: Any) -> None:
        self._other = other
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)
