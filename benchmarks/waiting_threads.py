"""Measure the cost of letting OpenMP's waiting threads sleep, and the gain beside another program.

    python benchmarks/waiting_threads.py REPORT.md --features FOLDER --images FOLDER
    python benchmarks/waiting_threads.py REPORT.md --features FOLDER --images FOLDER --cpu avx2

Three jobs, as the product does them: the whole regularisation path of a probe, extraction, and updates of a training
run. Each is timed alone and two at once, with every setting of how long threads spin before they sleep. A job with one
setting is two processes that have imported everything and run once before; alone the second waits for a line on stdin,
two at once are both told to begin. Settings take turns in every round, in an order that rotates. FOLDER of features
holds X.npy (N, D) and y.npy (N,); that of images, ``class/*.jpg``.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from penultimate.engine.runtime.capabilities import machine
from penultimate.engine.runtime.malloc import keep_freed_memory
from penultimate.engine.runtime.waiting_threads import spin_count
from penultimate.store.provenance import library_versions, source_commit, utc_now

LIBGOMPS_OWN = "GOMP_SPINCOUNT=300000"
"""libgomp's own default for waiting threads."""

SETTINGS = (
    LIBGOMPS_OWN,
    "GOMP_SPINCOUNT=10000",
    "GOMP_SPINCOUNT=5000",
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


def serve(job: str, work: Work) -> None:
    """Run a job once for every line on stdin and print the seconds; runs in a process of its own."""
    keep_freed_memory()  # as the command line does
    run = JOBS[job](work)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(time.perf_counter() - began, flush=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two processes of one job with one setting, both ready to run."""

    processes: tuple["subprocess.Popen[str]", "subprocess.Popen[str]"]

    def seconds(self, count: int) -> float:
        """Return the seconds until the last of the first ``count``, started together, is done."""
        running = self.processes[:count]
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return max(float(_answer(process)) for process in running)


@contextmanager
def ready(job: str, work: Work, setting: str, cpu: str | None) -> Iterator[Pair]:
    """Start both and wait until they are ready; they end with the context."""
    name, value = setting.split("=")
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= {name: value} | ({"PENULTIMATE_CPU": cpu} if cpu else {})
    command = [sys.executable, __file__, "--serve", job, json.dumps(asdict(work), default=str)]

    def begin() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with begin() as first, begin() as second:  # which closes their stdin, and so ends them
        for process in (first, second):
            while _answer(process) != "ready":
                pass
        yield Pair((first, second))


def _answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{shlex.join(map(str, process.args))} ended with exit code {process.wait()}")  # type: ignore[arg-type]
    return line.strip()


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of one job with one setting, one value for each round."""

    alone: list[float]
    two: list[float]
    """Seconds until both of two processes are done."""


def measure(job: str, work: Work, settings: Sequence[str], *, rounds: int, cpu: str | None) -> dict[str, Seconds]:
    """Measure every setting in turn, alone and two at once."""
    found = {setting: Seconds([], []) for setting in settings}
    with ExitStack() as stack:
        pairs = {setting: stack.enter_context(ready(job, work, setting, cpu)) for setting in settings}
        for number in range(rounds):
            turn = number % len(settings)
            for setting in (*settings[turn:], *settings[:turn]):
                found[setting].alone.append(pairs[setting].seconds(1))
                found[setting].two.append(pairs[setting].seconds(2))
    return found


def ratios(found: Mapping[str, Seconds], setting: str) -> tuple[float, float]:
    """Return median ratios: alone to libgomp's own setting alone, and two at once to one with this setting."""
    own, this = found[LIBGOMPS_OWN], found[setting]
    return (
        median(mine / its for mine, its in zip(this.alone, own.alone, strict=True)),
        median(both / one for both, one in zip(this.two, this.alone, strict=True)),
    )


def table(job: str, found: Mapping[str, Seconds]) -> str:
    """Return a table of medians, ranges and ratios, one row for each setting."""
    lines = [
        f"## {job.capitalize()}",
        "",
        "| setting | alone, s (least to most) | over libgomp's own | two at once, s (least to most) | over one |",
        "|---|---:|---:|---:|---:|",
    ]
    for setting, seconds in found.items():
        costs, two = ratios(found, setting)
        columns = [f"`{setting}`", _range(seconds.alone), f"{costs:.2f}", _range(seconds.two), f"{two:.2f}"]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _range(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def verdict(found: Mapping[str, Mapping[str, Seconds]]) -> str:
    """Return a sentence that names the settings within ``MOST_ALONE`` and ``MOST_TWO`` in every job."""

    def holds(setting: str) -> bool:
        return all(
            alone <= MOST_ALONE and two <= MOST_TWO for alone, two in (ratios(one, setting) for one in found.values())
        )

    those = [f"`{setting}`" for setting in next(iter(found.values())) if holds(setting)]
    return (
        f"At most {MOST_ALONE - 1:.0%} alone and {MOST_TWO} times two at once, in all of it: "
        f"{', '.join(those) or 'none'}. What the package sets: `GOMP_SPINCOUNT={spin_count()}`."
    )


def report(
    work: Work, *, jobs: Sequence[str], settings: Sequence[str], rounds: int, num_images: int, cpu: str | None
) -> str:
    """Measure all jobs and write the report as Markdown."""
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        sampled = replace(work, images=sample(work.images, num_images, Path(folder)))
        found = {job: measure(job, sampled, settings, rounds=rounds, cpu=cpu) for job in jobs}
    head = _head(work, rounds=rounds, num_images=num_images, cpu=cpu, load=load)
    return "\n\n".join([head, verdict(found), *(table(job, found[job]) for job in jobs)]) + "\n"


def sample(folder: Path, num_images: int, target: Path) -> Path:
    """Link to so many images, equally many of each of at most eight classes evenly spaced in ``folder``."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    chosen = [classes[i] for i in np.unique(np.linspace(0, len(classes) - 1, min(8, len(classes))).astype(int))]
    for a_class in chosen:
        (target / a_class.name).mkdir()
        for path in sorted(a_class.glob("*.jpg"))[: num_images // len(chosen)]:
            (target / a_class.name / path.name).symlink_to(path.resolve())
    return target


def _head(work: Work, *, rounds: int, num_images: int, cpu: str | None, load: float) -> str:
    about, versions = machine(), library_versions()
    rows, columns = np.load(work.features / "X.npy", mmap_mode="r").shape
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "timm", "numpy") if name in versions)
    answering = f", answering as {cpu}" if cpu else ""
    return (
        "# Threads that wait, alone and beside another program\n\n"
        f"`{shlex.join(['python', *sys.argv])}`: {rounds} rounds, after a run that warms up; {about['processor']}"
        f"{answering}, {about['cores']} cores, {about['memory_gib']} GiB; {named}; commit {source_commit()}, "
        f"{utc_now()[:10]}. "
        f"Load average before it began: {load:.1f}. Written by the script.\n\n"
        f"Probe: the path of {work.strengths} strengths on {rows:,} x {columns:,} features. Extraction: {num_images} "
        f"images, {work.network}, float32, not compiled. Training: {work.steps} updates of the same network at batch "
        f"{work.batch_size}. Two at once: two such processes begun together, until both are done. `{LIBGOMPS_OWN}` is "
        "how libgomp waits when nobody has said anything. Not measured: more than two at once, other numbers of cores, "
        "GPUs, the OpenMP runtimes of LLVM and Intel. No result depends on the setting."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--serve":
        work = json.loads(sys.argv[3])
        serve(sys.argv[2], Work(**(work | {name: Path(work[name]) for name in ("features", "images")})))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=96, help="of the extraction, and those trained on")
    parser.add_argument("--job", action="append", choices=[*JOBS], help="repeats; all unless asked for")
    parser.add_argument("--setting", action="append", help="beside libgomp's own; repeats")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", help="class of processor to answer as: PENULTIMATE_CPU")
    options = parser.parse_args(arguments)
    text = report(
        Work(features=options.features, images=options.images),
        jobs=options.job or [*JOBS],
        settings=[LIBGOMPS_OWN, *options.setting] if options.setting else SETTINGS,
        rounds=options.rounds,
        num_images=options.num_images,
        cpu=options.cpu,
    )
    options.report.write_text(text)


if __name__ == "__main__":
    main()
