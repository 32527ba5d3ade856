"""The steps of ``bench gpu``, each a function that runs in a process of its own and returns what it found.

    python -m penultimate.engine.bench.gpu.steps NAME DEVICE SECONDS

prints it as a line of JSON. With the device ``cpu`` every step runs at a tiny size, on the CPU: the same code, so that
it cannot rot, and no figure of a GPU.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.bench.decode import DecodeBench, bench_decode
from penultimate.engine.bench.extract import ExtractBench, bench_extract
from penultimate.engine.bench.features import overlapping_classes
from penultimate.engine.bench.gpu.photographs import KINDS, draw_jpeg, write_photographs
from penultimate.engine.bench.gpu.step import Found, Step
from penultimate.engine.bench.probe import ProbeBench, Shape, bench_probe, drawn_features
from penultimate.engine.bench.throughput import Stages
from penultimate.engine.bench.timing.measurement import SECONDS, compared
from penultimate.engine.bench.timing.processes import Turns, started
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns, timed
from penultimate.engine.bench.train import TrainBench, bench_train
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.subset import subset
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.fitting.solvers import solver_named
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.result import Probe
from penultimate.engine.runtime.capabilities import usable_cores
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic

# Shapes: N samples, D feature dimensions, K classes.


def card(step: Step) -> Found:
    """Tell the card, its driver and the TF32 flags, and decode one JPEG on it."""
    found = Found()
    found.findings += [_card(step), _tf32()]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "one.jpg").write_bytes(draw_jpeg(0))
        images = load_images([folder], labels=False)
        decoder = _gpu_decoder(step)
        pixels = _decoded(decoder, images)
        reference = _decoded(PillowDecoder(), images)
    distance = float(np.abs(pixels - reference).mean())
    found.want("JPEGs that Pillow decoded instead of DALI", decoder.counts.pillow, most=0)
    found.want("mean distance of one decoded JPEG from Pillow's, of 255", distance, most=2)
    return found


def path(step: Step) -> Found:
    """Fit paths as large as CIFAR-10's and Flowers', beside cuML where that is installed."""
    shapes = {"CIFAR-10's size": "75000,1280,10", "Flowers' size": "15000,1280,102"}  # three in five rows are train
    if step.is_tiny:
        shapes = {"tiny": "200,12,4"}
    found = Found()
    device: Any = step.device
    for name, shape in shapes.items():
        options = ProbeBench(device=device, seconds=step.seconds / len(shapes), **_few(step, l2="1e-2:1e2:5"))
        with drawn_features(Shape.parse(shape)) as features:
            report = bench_probe(features, options, command=(), on_cpu=step.is_tiny)  # minutes at full size
            rows = features.labelled_rows("train")
            fit = FitSettings(
                num_classes=len(features.class_names),
                path=RegularizationPath.parse(options.l2),
                device=step.device,
            )
            waits = _synchronizations(
                partial(solver_named("torch"), features.rows_at(rows), features.labels[rows], fit)
            )
        found.take(report, name)
        if waits is not None:
            found.findings.append(f"{name}: the host waits for the GPU {waits:,} times in a path.")
        _beside_cuml(found, report, name)
        found.tell()
    return found


def _beside_cuml(found: Found, report: Report, name: str) -> None:
    lines = {line.name: line for line in report.measurements if line.group.startswith("Path")}
    if "cuML" not in lines:
        found.not_measured.append(f"{name}: cuML is not here, so that nothing is compared with it.")
        return
    times = lines["cuML"].median / lines["penultimate"].median
    found.want(f"{name}: cuML's time over the path's", times, least=10)


def extract(step: Step) -> Found:
    """Extract with three networks in bfloat16, eager and compiled, by one process and by two."""
    models = ["resnet50", "efficientnet_b0", "vit_base_patch16_224"]
    found = Found()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_photographs(Path(scratch) / "photographs", per_class=12 if step.is_tiny else 4096)
        if step.is_tiny:
            models = ["test_resnet"]
        runs = [(model, compiled) for compiled in ((False,) if step.is_tiny else (False, True)) for model in models]
        for model, compiled in runs:
            request = BackboneRequest(model=model, weights="random")
            options = _extraction(step, compiled, seconds=step.seconds / (len(runs) + 1))
            name = f"{model}, {'compiled' if compiled else 'eager'}"
            report = bench_extract([str(folder)], [request], options, command=())
            found.take(report, name)
            if model == models[0]:
                ratio = median(report.measurements[-1].ratios)
                found.want(f"{name}: end to end over min(decode, model)", ratio, least=0.95)
            found.tell()
        one, two = _processes(step, folder, BackboneRequest(model=models[0], weights="random"))
    found.measurements += compared([one, two], unit="images/s")
    return found


def _extraction(step: Step, compiled: bool, *, seconds: float) -> ExtractBench:
    precision: Any = "float32" if step.is_tiny else "bfloat16"
    device: Any = step.device
    return ExtractBench(
        device=device, precision=precision, compile=compiled, parity=False, seconds=seconds, **_few(step)
    )


def _processes(step: Step, folder: Path, request: BackboneRequest) -> tuple[Laps, Laps]:
    """Extract all images by one process, and by two that do half each."""
    settings = _extraction(step, False, seconds=1).part(ExtractionSettings)
    count = len(load_images([str(folder)], labels=False))

    def contender(number_of: int, stack: ExitStack) -> Contender:
        parts = np.array_split(np.arange(count), number_of)
        halved = settings.replace(workers=max(1, usable_cores() // number_of))
        remotes = [stack.enter_context(started(_extract_part, str(folder), part, request, halved)) for part in parts]
        for remote in remotes:
            remote.end()  # loaded

        def run() -> Iterator[int]:
            for remote in remotes:
                remote.begin()
            yield sum(remote.end() for remote in remotes)

        name = f"{number_of} {'process' if number_of == 1 else 'processes'}"
        return Contender(name=name, group=f"Extraction by processes, {request.model}", run=run, items=count)

    with ExitStack() as stack:
        one, two = take_turns(
            [contender(1, stack), contender(2, stack)],
            TurnOptions(seconds=step.seconds, rounds=1 if step.is_tiny else 2),
        )
    return one, two


def _extract_part(folder: str, rows: Any, request: BackboneRequest, settings: ExtractionSettings, turns: Turns) -> None:
    """Extract some rows of a folder, turn after turn; runs in a process of its own."""
    from penultimate.engine.extract.prepare import prepared_backbones

    images = subset(load_images([folder], labels=False), rows)
    job = ExtractionJob(requests=(request,), settings=settings)
    backbones, _ = prepared_backbones(job.requests, settings, num_images=lambda each: len(rows), log=lambda line: None)
    contender = Stages(replace(images, subset_of=None), job.extractor(backbones)).contender("end_to_end")
    turns.ready()
    while True:
        turns.over(timed(contender).items)


def train(step: Step) -> Found:
    """Train ResNet-50 in bfloat16 on photographs, on one batch in memory, and by timm's loop."""
    found = Found()
    device: Any = step.device
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_photographs(Path(scratch) / "photographs", per_class=12 if step.is_tiny else 1024)
        small: dict[str, Any] = {"batch_size": 4, "size": 32, "updates": 1, "workers": 1} if step.is_tiny else {}
        options = TrainBench(
            device=device,
            precision="float32" if step.is_tiny else "bfloat16",
            seconds=step.seconds,
            **small,
            **_few(step),
        )
        request = BackboneRequest(model="test_resnet" if step.is_tiny else "resnet50", weights="random")
        report = bench_train([str(folder)], request, options, command=())
    found.take(report, "train")
    rate = {line.name: line.median for line in report.measurements}
    found.want("training over one batch in memory", rate["penultimate"] / rate["one batch in memory"], least=0.9)
    return found


def imagenet(step: Step) -> Found:
    """Fit a path at an eighth of ImageNet's rows."""
    return _imagenet(step, rows=160_000, strengths=12)


def imagenet_full(step: Step) -> Found:
    """Fit 45 strengths at ImageNet's size."""
    return _imagenet(step, rows=1_281_167, strengths=45)


def _imagenet(step: Step, *, rows: int, strengths: int) -> Found:
    dim, classes = 2048, 1000
    if step.is_tiny:
        rows, dim, classes, strengths = 400, 16, 20, 5
    features_ND, labels_N = overlapping_classes(rows, dim, classes)
    path = RegularizationPath.spaced(1e-6, 1e5, strengths)
    settings = FitSettings(num_classes=classes, path=path, device=step.device)
    probes: list[Probe] = []

    def run() -> Iterator[int]:
        probes[:] = solver_named("torch")(features_ND, labels_N, settings)
        yield len(probes)

    group = f"{rows:,} x {dim:,} x {classes:,}, {strengths} strengths"
    lap = timed(Contender(name="penultimate", group=group, run=run, items=strengths))
    found = Found(
        measurements=compared([Laps(name="penultimate", group=group, warm_up=lap, rounds=(lap,))], unit=SECONDS)
    )
    gap = max(probe.report.gap / probe.report.objective for probe in probes)
    certified = sum(probe.report.certified for probe in probes)
    found.findings.append(
        f"{group}: {certified} certified, the largest gap is {gap:.1e} of the objective; one run, without a warm-up."
    )
    if not step.is_tiny:
        found.findings.append(f"{group}: at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB were allocated.")
    found.want(f"{group}: seconds", lap.wall_seconds, most=600)
    return found


def parity(step: Step) -> Found:
    """Decode every kind of JPEG twice at three shares of the hardware engine, and measure the rates of decoders."""
    from penultimate.engine.images.decode.dali_gpu_pipeline import JPEG_OPTIONS

    found = Found()
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            folder = Path(scratch) / kind.replace(":", "")
            images = load_images(
                [str(write_photographs(folder, per_class=4, kind=kind, height=120, width=161))], labels=False
            )
            reference = _decoded(PillowDecoder(), images)
            for share in (0.0, 0.65, 1.0):
                with patch.dict(JPEG_OPTIONS, hw_decoder_load=share):
                    first, second = (_decoded(_gpu_decoder(step), images) for _ in range(2))
                distance = float(np.abs(first - reference).mean())
                same = "the same twice" if np.array_equal(first, second) else "other pixels the second time"
                found.findings.append(
                    f"{kind}, hardware share {share:g}: {distance:.2f} of 255 from Pillow on average, {same}."
                )
                if share == 1.0:
                    found.want(f"{kind}: mean distance from Pillow, of 255", distance, most=2)
            found.tell()
        device: Any = step.device
        many = write_photographs(Path(scratch) / "many", per_class=12 if step.is_tiny else 1024)
        options = DecodeBench(device=device, seconds=step.seconds, **_few(step))
        found.take(bench_decode([str(many)], options, command=()), "decode")
    return found


def _few(step: Step, **others: Any) -> dict[str, Any]:
    """Return the rounds of a step, and at tiny sizes other options."""
    return {"rounds": 1} | others if step.is_tiny else {"rounds": 3}


def _gpu_decoder(step: Step) -> Any:
    from penultimate.engine.images.decode.dali_gpu import DaliGpuDecoder

    return DaliGpuDecoder(num_workers=usable_cores(), device=step.device)


def _decoded(decoder: Decoder, images: ImageSet) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Return the pixels (N, 96, 96, 3) of all images, on the host."""
    half = (0.5, 0.5, 0.5)
    view = Preprocess(height=96, width=96, resize="whole", mean=half, std=half)
    batches = decoder.batches(images, range(len(images)), [view], batch_size=8)
    return np.concatenate([np.asarray(torch.as_tensor(batch.views[0]).cpu(), np.int16) for batch in batches])


def _card(step: Step) -> str:
    cores = f"{usable_cores()} cores"
    if step.is_tiny:
        return f"No GPU: torch {torch.__version__} sees none; every step ran at tiny size on the CPU, {cores}."
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        told = f"{torch.cuda.get_device_name()} (nvidia-smi: {error})"
    return f"{told}; torch {torch.__version__}, CUDA {torch.version.cuda}, {cores}."


def _tf32() -> str:
    def flags() -> str:
        return f"products {torch.backends.cuda.matmul.allow_tf32}, convolutions {torch.backends.cudnn.allow_tf32}"

    before = flags()
    with float32_arithmetic():
        within = flags()
    override = os.environ.get("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "not set")
    return f"TF32 by the process: {before}; while features or probes are computed: {within}; override {override}."


def _synchronizations(work: Callable[[], object]) -> int | None:
    """Return how often the host waited for the GPU; None without one."""
    if not torch.cuda.is_available():
        work()
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)


STEPS: dict[str, Callable[[Step], Found]] = {
    "card": card,
    "path": path,
    "extract": extract,
    "train": train,
    "imagenet": imagenet,
    "parity": parity,
    "imagenet-full": imagenet_full,
}
"""Name -> step, the most informative first."""


def main(arguments: Sequence[str]) -> None:
    """Run one step and print what it found, also after each part, as a line of JSON: the last line counts."""
    name, device, seconds = arguments
    STEPS[name](Step(device=device, seconds=float(seconds))).tell()


if __name__ == "__main__":
    main(sys.argv[1:])
