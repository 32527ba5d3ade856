"""Measure the cost of letting OpenMP's waiting threads sleep, and the gain beside another program.

    python benchmarks/waiting_threads.py REPORT.md --features FOLDER --images FOLDER
    PENULTIMATE_CPU=avx2 python benchmarks/waiting_threads.py REPORT.md --features FOLDER --images FOLDER

Three jobs, as the product does them: the whole regularisation path of a probe, extraction, and updates of a training
run. Each is timed alone and two at once, with every setting of how long threads spin before they sleep. A job with one
setting is two processes that have imported everything and run once before; alone the second waits, two at once are both
told to begin. All take turns in every round. FOLDER of features holds X.npy (N, D) and y.npy (N,); that of images,
``class/*.jpg``.
"""

import penultimate  # noqa: F401  # before numpy, so that PENULTIMATE_CPU reaches its BLAS

# isort: split
import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.measurement import SECONDS, compared, other_cores
from penultimate.engine.bench.timing.processes import Remote, Turns, started
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.engine.runtime.waiting_threads import SPIN_COUNT, USERS_OWN

LIBGOMPS_OWN = "GOMP_SPINCOUNT=300000"
"""libgomp's own default for waiting threads."""

SETTINGS = (
    LIBGOMPS_OWN,
    "GOMP_SPINCOUNT=10000",
    "GOMP_SPINCOUNT=3000",
    "GOMP_SPINCOUNT=1000",
    "OMP_WAIT_POLICY=passive",
)
MOST_ALONE, MOST_TWO = 1.03, 2.2
"""Largest accepted time ratio of a setting alone to libgomp's own, and of two at once to one with that setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Inputs and sizes of the jobs."""

    features: Path
    """Folder of X.npy and y.npy."""

    images: Path
    """Folder of ``class/*.jpg``."""

    network: str = "tf_efficientnet_lite0"
    strengths: int = 45
    batch_size: int = 8
    steps: int = 6
    """Number of updates of the training run."""


def probe(work: Work) -> Callable[[], object]:
    """Return a function that fits the whole path, 1e5 to 1e-6, on all rows."""
    from penultimate.engine.probe.fitting.fit import fit_path
    from penultimate.engine.probe.fitting.fit_settings import FitSettings
    from penultimate.engine.probe.path import RegularizationPath

    features_ND, labels_N = np.load(work.features / "X.npy"), np.load(work.features / "y.npy")
    path = RegularizationPath.spaced(1e-6, 1e5, work.strengths)
    settings = FitSettings(num_classes=int(labels_N.max()) + 1, path=path)
    return lambda: fit_path(features_ND, labels_N, settings)


def extraction(work: Work) -> Callable[[], object]:
    """Return a function that extracts every image into a store, in float32, not compiled."""
    from extract_speed import penultimate_runner

    return penultimate_runner(work.images, work.network, precision="float32", compiled=False)


def training(work: Work) -> Callable[[], object]:
    """Return a function that trains the whole network for some updates, decoding and augmentation included."""
    import torch

    from penultimate.engine.images.load import load_images
    from penultimate.engine.train.augment.augmenter import CropSettings, augmented
    from penultimate.engine.train.augment.draws import draw_batch
    from penultimate.engine.train.augment.factory import make_augmenter
    from penultimate.engine.train.learner.learner import Learner
    from penultimate.engine.train.learner.network import load_initial_model
    from penultimate.engine.train.settings import TrainSettings
    from penultimate.engine.train.world import World

    images, device = load_images([str(work.images)]), torch.device("cpu")
    initial = load_initial_model(work.network, init="random", weights="timm", seed=0)
    recipe = TrainSettings(init="random", batch_size=work.batch_size).search(images, initial).recipe
    learner = Learner(
        initial,
        recipe,
        num_classes=len(images.class_names),
        steps_per_epoch=len(images) // work.batch_size,
        world=World(rank=0, size=1, device=device),
    )
    augmenter = make_augmenter(recipe.augmenter, num_workers=2, device=device)
    draws = (draw_batch(recipe, np.arange(len(images)), step) for step in range(recipe.steps))
    batches = augmented(augmenter, images, draws, CropSettings.of(recipe))

    def updates() -> None:
        for _ in range(work.steps):
            batch = next(batches)
            learner.update(batch.step, batch.images_BHWC, torch.from_numpy(images.labels_N[batch.rows_B]))

    return updates


JOBS: dict[str, Callable[[Work], Callable[[], object]]] = {
    "probe": probe,
    "extraction": extraction,
    "training": training,
}


def serve(job: Callable[[Work], Callable[[], object]], work: Work, turns: Turns) -> None:
    """Run a job once a turn, after a run that warms up; runs in a process of its own."""
    keep_freed_memory()  # as the command line does
    run = job(work)
    run()
    turns.ready()
    while True:
        run()
        turns.over(1)


@contextmanager
def in_force(setting: str) -> Iterator[None]:
    """Let the processes that are started meanwhile have this setting."""
    before = dict(os.environ)
    for name in USERS_OWN:
        os.environ.pop(name, None)
    name, value = setting.split("=")
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two processes of one job with one setting."""

    first: Remote
    second: Remote

    def wait(self) -> None:
        """Wait until both are ready."""
        self.first.end(), self.second.end()

    def alone(self) -> Iterator[int]:
        """Let the first do a turn."""
        return self.first.turn()

    def both(self) -> Iterator[int]:
        """Let both do a turn at the same time."""
        for each in (self.first, self.second):
            each.begin()
        yield self.first.end() + self.second.end()


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of one job with one setting, one value for each round."""

    alone: Sequence[float]
    two: Sequence[float]
    """Seconds until both of two processes are done."""


def measure(job: str, work: Work, settings: Sequence[str], options: TurnOptions) -> list[Laps]:
    """Time every setting alone, then every setting two at once, in turns; return the laps in that order."""
    with ExitStack() as stack:
        pairs = {}
        for setting in settings:
            with in_force(setting):
                pairs[setting] = Pair(*(stack.enter_context(started(serve, JOBS[job], work)) for _ in range(2)))
            pairs[setting].wait()
        one, two = f"{job.capitalize()}, alone", f"{job.capitalize()}, two at once"
        alone = [Contender(name=each, group=one, run=pair.alone, items=1) for each, pair in pairs.items()]
        both = [Contender(name=each, group=two, run=pair.both, items=2) for each, pair in pairs.items()]
        return take_turns([*alone, *both], options)


def seconds_of(laps: Sequence[Laps]) -> dict[str, Seconds]:
    """Return the seconds of each setting, of laps as ``measure`` returns them."""
    count = len(laps) // 2
    return {
        alone.name: Seconds(*([lap.wall_seconds for lap in each.rounds] for each in (alone, both)))
        for alone, both in zip(laps[:count], laps[count:], strict=True)
    }


def ratios(found: Mapping[str, Seconds], setting: str) -> tuple[float, float]:
    """Return median ratios: alone to libgomp's own setting alone, and two at once to one with this setting."""
    own, this = found[LIBGOMPS_OWN], found[setting]
    return (
        median(mine / its for mine, its in zip(this.alone, own.alone, strict=True)),
        median(both / one for both, one in zip(this.two, this.alone, strict=True)),
    )


def costs(found: Mapping[str, Mapping[str, Seconds]]) -> list[Row]:
    """Return the rows of a table of both ratios."""
    rows = []
    for job, of_settings in found.items():
        for setting in of_settings:
            alone, two = ratios(of_settings, setting)
            numbers = {"alone, over libgomp's own": f"{alone:.2f}", "two at once, over one": f"{two:.2f}"}
            rows.append({"job": job, "setting": setting} | numbers)
    return rows


def verdict(found: Mapping[str, Mapping[str, Seconds]]) -> str:
    """Return a sentence that names the settings within ``MOST_ALONE`` and ``MOST_TWO`` in every job."""

    def holds(setting: str) -> bool:
        return all(
            alone <= MOST_ALONE and two <= MOST_TWO for alone, two in (ratios(one, setting) for one in found.values())
        )

    those = [setting for setting in next(iter(found.values())) if holds(setting)]
    return (
        f"At most {MOST_ALONE - 1:.0%} alone and {MOST_TWO} times two at once, in all of it: "
        f"{', '.join(those) or 'none'}. What the package sets: GOMP_SPINCOUNT={SPIN_COUNT}."
    )


def report(
    work: Work, *, jobs: Sequence[str], settings: Sequence[str], options: TurnOptions, num_images: int
) -> Report:
    """Measure all jobs."""
    with TemporaryDirectory() as folder:
        sampled = replace(work, images=sample(work.images, num_images, Path(folder)))
        laps = {job: measure(job, sampled, settings, options) for job in jobs}
    found = {job: seconds_of(each) for job, each in laps.items()}
    every = [each for of_job in laps.values() for each in of_job]
    return Report(
        bench="waiting-threads",
        title="Threads that wait, alone and beside another program",
        settings={
            "features": list(np.load(work.features / "X.npy", mmap_mode="r").shape),
            "strengths": work.strengths,
            "network": f"{work.network}, random weights, float32, not compiled",
            "images": num_images,
            "updates": work.steps,
            "batch": work.batch_size,
        },
        measurements=compared(every, unit=SECONDS),
        other_cores=other_cores(every),
        tables={"What a setting costs alone, and two at once": costs(found)},
        findings=[verdict(found)],
        not_measured=[
            f"Two at once are two such processes begun together, until both are done; {LIBGOMPS_OWN} is how libgomp "
            "waits when nobody has said anything. No result depends on the setting.",
            "Not measured: more than two at once, other numbers of cores, GPUs, the OpenMP runtimes of LLVM and Intel.",
        ],
    )


def sample(folder: Path, num_images: int, target: Path) -> Path:
    """Link to so many images, equally many of each of at most eight classes evenly spaced in ``folder``."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    chosen = [classes[i] for i in np.unique(np.linspace(0, len(classes) - 1, min(8, len(classes))).astype(int))]
    for a_class in chosen:
        (target / a_class.name).mkdir()
        for path in sorted(a_class.glob("*.jpg"))[: num_images // len(chosen)]:
            (target / a_class.name / path.name).symlink_to(path.resolve())
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=96, help="of the extraction, and those trained on")
    parser.add_argument("--job", action="append", choices=[*JOBS], help="repeats; all unless asked for")
    parser.add_argument("--setting", action="append", help="beside libgomp's own; repeats")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    report(
        Work(features=given.features, images=given.images),
        jobs=given.job or [*JOBS],
        settings=[LIBGOMPS_OWN, *given.setting] if given.setting else SETTINGS,
        options=TurnOptions(seconds=24 * 3600, rounds=given.rounds),
        num_images=given.num_images,
    ).write(given.report)


if __name__ == "__main__":
    main()
