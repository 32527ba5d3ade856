"""Simulate extraction by up to 1,000 workers, with one bucket and one driver, for ``scaling.py``.

Images/s of a worker, seconds of a request and the requests a second a bucket takes are parameters (``Assumed``), each
with where it comes from; the rest was measured (``Constants``).
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penultimate.engine.bench.timing.cells import Row
from penultimate.store.format.layout import num_shards

_LIST_PAGE = 1000  # names in one LIST response: Amazon S3 API reference, ListObjectsV2, MaxKeys


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Constants that ``scaling.constants`` measures."""

    requests_a_shard: dict[str, int]
    requests_to_open: dict[str, int]
    """Requests of a writer of one part of a key that was begun."""
    requests_to_close: dict[str, int]
    """Requests of a writer of a part that is not the last."""
    requests_to_complete: dict[str, float]
    """Requests of the last writer, for each shard of the key."""
    bytes_a_row: float
    bytes_a_record: float
    seconds_a_row: float
    """Seconds to checksum, encode and hand over a row of 2,048 float32, without any network."""
    seconds_a_planned_image: float
    """Seconds that a worker spends on each image of the set when it opens its first part of it."""
    bytes_an_image: float
    """Bytes for each image of an ImageSet of tar members, as it is sent to workers and held by each."""
    seconds_a_task: float
    """Seconds of the driver for each task that does nothing, with two workers."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """Parameters that are assumed, not measured."""

    images_a_second: float
    """Images per second of a worker. No GPU was measured; a range is simulated."""
    request_seconds: float = 0.05
    """Seconds of one small request. "Roughly 100-200 milliseconds", less for small objects close by (S3 user guide,
    "Best practices design patterns: optimizing Amazon S3 performance"); a range is simulated."""
    writes_a_second: float = 3500.0
    """PUT and DELETE requests per second of one prefix, from the same guide."""
    reads_a_second: float = 5500.0
    """GET, HEAD, and here also LIST requests per second, from the same guide."""
    worker_bytes: float = 32e9
    """Memory of a worker for the image set, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job to simulate."""

    workers: int
    images: int
    set_images: int
    """Number of images in one set, that is, of one key; sets follow each other."""
    shard_rows: int
    parts_a_worker: int = 4


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Result of one simulation."""

    seconds: float
    efficiency: float
    """Time if workers did nothing but embed, divided by the simulated time."""
    waits: dict[str, float]
    """Cause -> fraction of all workers' time."""

    @property
    def bottleneck(self) -> str:
        """Return the cause that takes most time besides embedding."""
        return max(self.waits, key=lambda cause: self.waits[cause])


class _Server:
    """A server with a limited rate, whose requests queue in one line."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0

    def take(self, now: float, count: float) -> float:
        """Return the time at which ``count`` requests sent at ``now`` have been let through."""
        self._free = max(self._free, now) + count / self._rate
        return self._free


def simulate(job: Job, measured: Constants, assumed: Assumed) -> Simulated:
    """Simulate workers that take one part after the other: open it, embed and commit its shards, and close it.

    Commits run beside embedding, one at a time, as in ``extract``. Requests of a step follow each other, but for the
    records a completion reads 32 at once; all of one kind share the bucket's rate. The driver sends parts one by one.
    """
    sets = -(-job.images // job.set_images)
    waits: defaultdict[str, float] = defaultdict(float)
    now = 0.0
    for _ in range(min(sets, 3)):  # every set is as the one before: three tell what all do
        now = _simulate_set(job, measured, assumed, now, waits)
    seconds = now * sets / min(sets, 3)
    ideal = sets * job.set_images / (job.workers * assumed.images_a_second)
    total = job.workers * now
    return Simulated(
        seconds=seconds,
        efficiency=ideal / seconds,
        waits={cause: spent / total for cause, spent in waits.items()},
    )


def _simulate_set(
    job: Job, measured: Constants, assumed: Assumed, begin: float, waits: defaultdict[str, float]
) -> float:
    """Return the time at which a set is done. Workers run in the order of time, in which servers must see requests."""
    run = _Set(job, measured, assumed, waits)
    turns = [(begin, number, run.worker(begin)) for number in range(job.workers)]
    ended = []
    while turns:
        now, number, worker = heapq.heappop(turns)
        if (later := next(worker, None)) is None:
            ended.append(now)
        else:
            heapq.heappush(turns, (later, number, worker))
    last = run.complete(max(ended))
    waits["last parts"] += sum(max(ended) - now for now in ended)
    return last


class _Set:
    """State of one set being extracted: the servers that all workers use, and the parts that are left."""

    def __init__(self, job: Job, measured: Constants, assumed: Assumed, waits: defaultdict[str, float]) -> None:
        self._job, self._measured, self._assumed, self._waits = job, measured, assumed, waits
        self._shards = num_shards(job.set_images, job.shard_rows)
        count = min(self._shards, job.parts_a_worker * job.workers)
        self._parts = iter((n + 1) * self._shards // count - n * self._shards // count for n in range(count))
        self._writes, self._reads = _Server(assumed.writes_a_second), _Server(assumed.reads_a_second)
        self._driver = _Server(1 / measured.seconds_a_task)
        self._ledger = _Server(1 / assumed.request_seconds)

    def worker(self, now: float) -> Iterator[float]:
        """Take parts until none is left; yield the time of each next action."""
        measured, job = self._measured, self._job
        to_plan = measured.seconds_a_planned_image * job.set_images
        for shards in self._parts:
            now = yield from self._step("driver", now, self._driver.take(now, 1))
            now, to_plan = (yield from self._step("plan of all ids", now, now + to_plan)), 0.0
            # The claim and its release change one object, one writer after the other.
            now = yield from self._step("ledger of claims", now, self._ledger.take(now, 2))
            now = yield from self._step("opening parts", now, self._answered(now, measured.requests_to_open))
            embedded = committed = now
            for _ in range(shards):
                embedded += job.shard_rows / self._assumed.images_a_second
                stored = max(embedded, committed) + measured.seconds_a_row * job.shard_rows
                yield stored
                committed = self._answered(stored, measured.requests_a_shard)
            now = yield from self._step("commits", embedded, committed)
            now = yield from self._step("closing parts", now, self._answered(now, measured.requests_to_close))

    def complete(self, now: float) -> float:
        """Return the time at which the last writer has read every record, 32 at once, while all others wait."""
        records = sum(self._measured.requests_to_complete.values()) * self._shards
        done = max(self._reads.take(now, records), now + records * self._assumed.request_seconds / 32)
        self._waits["completion"] += self._job.workers * (done - now)
        return done

    def _step(self, cause: str, now: float, until: float) -> Generator[float, None, float]:
        self._waits[cause] += until - now
        yield until
        return until

    def _answered(self, now: float, requests: Mapping[str, float]) -> float:
        """Return the time at which these requests have been answered in turn; a LIST reads all records page by page."""
        pages = -(-self._shards // _LIST_PAGE)
        many = {kind: count * (pages if kind == "list" else 1) for kind, count in requests.items()}
        done = now + sum(many.values()) * self._assumed.request_seconds
        done = max(done, self._writes.take(now, many.get("put", 0) + many.get("delete", 0)))
        return max(done, self._reads.take(now, many.get("get", 0) + many.get("head", 0) + many.get("list", 0)))


BILLION = 1_000_000_000
CENTRAL = Job(workers=64, images=BILLION, set_images=10_000_000, shard_rows=1024)
USUAL = Assumed(images_a_second=1000)

SIMULATED = (
    "Simulated are a billion images in sets of ten million, 1,024 rows a shard, 1,000 images/s a worker, 0.05 s a "
    "request, 3,500 writes and 5,500 reads a second, unless the table says otherwise. The share of linear is the time "
    "of workers that only embed, over the time simulated; the first bottleneck takes most of the workers' time beside "
    "embedding."
)


def tables(measured: Constants) -> dict[str, list[Row]]:
    """Return the simulation as tables, which vary one parameter at a time around a central job."""

    def rows(heading: str, values: Sequence[float], case: Callable[[Any], tuple[Job, Assumed]]) -> list[Row]:
        return [
            {heading: f"{value:,}", **_cells(simulate(case(value)[0], measured, case(value)[1]))} for value in values
        ]

    def job(**changes: int) -> tuple[Job, Assumed]:
        return replace(CENTRAL, **changes), USUAL

    def assumed(**changes: float) -> tuple[Job, Assumed]:
        return CENTRAL, replace(USUAL, **changes)

    return {
        "Workers on one set of 10,000,000 images": rows("workers", (1, 4, 16, 64, 256, 1000), lambda n: job(workers=n)),
        "Rows a shard, 64 workers on a set": rows(
            "rows a shard", (256, 1024, 4096, 16_384), lambda n: job(shard_rows=n)
        ),
        "Images of one set, 64 workers on it": rows(
            "images a set", (10**6, 10**7, 10**8, 10**9), lambda n: job(set_images=n)
        ),
        "Images/s of a worker, 64 workers on a set": rows(
            "images/s", (10, 100, 1000, 5000), lambda n: assumed(images_a_second=n)
        ),
        "Seconds of a request, 64 workers on a set": rows(
            "seconds", (0.01, 0.05, 0.2), lambda s: assumed(request_seconds=s)
        ),
        "A billion images on 1,000 workers, as sets side by side": rows(
            "sets at once", (1, 4, 10, 25, 50, 100), lambda n: job(workers=1000 // n, images=BILLION // n)
        ),
    }


def largest_set(measured: Constants) -> str:
    """Say how many images a worker's memory holds."""
    limit = USUAL.worker_bytes / measured.bytes_an_image
    return f"A worker with {USUAL.worker_bytes / 1e9:g} GB for it holds a set of {limit:,.0f} images."


def _cells(found: Simulated) -> Row:
    return {
        "hours": f"{found.seconds / 3600:,.2f}",
        "share of linear": f"{found.efficiency:.3f}",
        "first bottleneck": found.bottleneck,
        "its share of workers' time": f"{found.waits[found.bottleneck]:.3f}",
    }
