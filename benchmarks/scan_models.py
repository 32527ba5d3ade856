"""Every architecture of timm through penultimate: listed, embedded, parity-checked and classified, or refused.

Of each network, with random weights and a batch of two images of noise at its own input size: is it listed with the
dimension it then has, are its features one finite vector an image, is it at no distance from its own reference, and
are its class scores those of timm's own ``forward``? Networks above 300 million parameters are run on torch's meta
device, which has shapes and no numbers. What penultimate refuses must be one InputError.

A line of JSON a network, appended as soon as it is known, smallest networks first: the same command goes on where it
stopped. A network that takes longer than ``--seconds`` is recorded as such.

    python benchmarks/scan_models.py scan.jsonl benchmarks/results/scan_models_202611.md
"""

import argparse
import json
import math
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.backbones.catalog import describe, refuse_if_no_backbone
from penultimate.engine.backbones.classifier import num_classes_of
from penultimate.engine.backbones.timm_backbone import TimmBackbone, load_backbone
from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import timed_call
from penultimate.engine.extract.parity import check_parity
from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.image_set import SPLIT_DTYPE, ImageSet
from penultimate.engine.images.sources import ArraySource
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.errors import InputError
from penultimate.store.key import PENULTIMATE

# Shapes: B = 2 images of a batch, H x W pixels, C = 3 channels, D feature dimensions, K classes.

BATCH = 2
META_ABOVE = 300_000_000
"""Parameters; networks with more have shapes but no numbers here."""

ROUNDING = 1e-4
"""Largest ||f - g|| / ||g|| of class scores: penultimate normalises a byte in one step and runs channels-last, timm's
own pass here in two and channels-first, so kernels add in another order through up to some hundred layers."""

OPENINGS = {
    "listed": "not listed",
    "embedded": "not embedded",
    "parity": "parity",
    "classified": "not classified as timm does",
}


def main() -> None:
    """Scan what the file of lines lacks, smallest first, and write the report of all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="JSON lines; made, or gone on with")
    parser.add_argument("report", type=Path, help="report to write from all lines")
    parser.add_argument("--only", default="*", help="glob over architectures")
    parser.add_argument("--seconds", type=int, default=300, help="longest time of one network")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore")
    names = [name for name in timm.list_models() if fnmatchcase(name, given.only)]
    scan(names, given.lines, seconds=given.seconds)
    report(read_lines(given.lines), read_lines(given.lines, "sizes")).write(given.report)


def scan(names: Sequence[str], lines: Path, *, seconds: int) -> None:
    """Append a ``sizes`` line for each network and, smallest first, a ``result`` line for each."""
    found = read_lines(lines, "sizes")
    for name in names:
        if name not in found:
            found[name] = within(seconds, sizes, name)
            append(lines, {"kind": "sizes", "model": name, **found[name]})
    order = sorted(names, key=lambda name: (found[name].get("parameters", 0), name))
    begun, done = read_lines(lines, "begun"), read_lines(lines, "result")
    for name in order:
        if name in done:
            continue
        if name in begun:  # the process ended in it, for want of memory or by a crash: not tried again
            append(lines, {"kind": "result", "model": name, "status": "process ended"})
            continue
        append(lines, {"kind": "begun", "model": name})
        outcome, lap = timed_call(partial(within, seconds, examine, name, found[name].get("parameters", 0)))
        append(lines, {"kind": "result", "model": name, **outcome, "seconds": round(lap.wall_seconds, 2)})


def read_lines(lines: Path, kind: str = "result") -> dict[str, dict[str, Any]]:
    """Network -> its last line of a kind."""
    if not lines.exists():
        return {}
    rows = (json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.endswith("}"))
    return {row["model"]: row for row in rows if row["kind"] == kind}


def append(lines: Path, row: Mapping[str, Any]) -> None:
    """One line at the end of the file."""
    with lines.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def within(seconds: int, function: Any, *arguments: Any) -> dict[str, Any]:
    """What the function says, or what stopped it: its error, or the time."""
    try:
        with alarm(seconds):
            found: dict[str, Any] = function(*arguments)
            return found
    except TimeoutError:
        return {"status": f"longer than {seconds} s"}
    except InputError as error:
        return {"status": "refused", "reason": str(error)}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300], "at": place}


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """TimeoutError inside once the time is up."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def sizes(name: str) -> dict[str, Any]:
    """What decides the order and the device."""
    with torch.device("meta"):
        model = create_network(name)
    return {"parameters": sum(p.numel() for p in model.parameters())}


def examine(name: str, parameters: int) -> dict[str, Any]:
    """Status, dimensions and what was found wrong, of one network; raises what penultimate raises."""
    refuse_if_no_backbone(name)
    listed_dim = describe(name, {}).feature_dim
    found = _on_meta(name, listed_dim) if parameters > META_ABOVE else _on_cpu(name, listed_dim)
    wrong = {step: problem for step, problem in found.pop("wrong").items() if problem}
    return {"status": "wrong" if wrong else "ok", **found, "wrong": wrong}


def _on_cpu(name: str, listed_dim: int | None) -> dict[str, Any]:
    backbone = load_backbone(name, weights="random")
    images_BHWC = _noise(backbone)
    if backbone.num_classes:
        features, scores_BK = backbone.classify(images_BHWC)
        distance: float | None = _distance_from_timm(backbone, images_BHWC, scores_BK)
    else:
        features, distance = backbone.embed(images_BHWC), None
    agrees, dim = distance is None or distance <= ROUNDING, backbone.feature_dims[PENULTIMATE]
    (report,) = check_parity(
        _image_set(images_BHWC),
        backbone,
        PillowDecoder(),
        num_images=BATCH,
        batch_size=BATCH,
        threads=ThreadBudget(decode=1, replicas=1, per_replica=torch.get_num_threads()),
    )
    # Last of all, for it leaves the network in float64.
    exact = {} if agrees or distance == math.inf else _in_float64(backbone, images_BHWC)
    agrees = agrees or bool(exact and exact["float64"] <= ROUNDING < exact["timm_float32"])
    return {
        "device": "cpu",
        "dim": dim,
        "classes": backbone.num_classes,
        "distance_from_timm": distance,
        "wrong": {
            "listed": None if listed_dim == dim else f"with dimension {listed_dim}",
            "embedded": _wrong_features(features[PENULTIMATE], dim),
            "parity": None
            if _is_itself(report.feature_distance, report.num_changed_predictions)
            else f"distance {report.feature_distance:.2g}, {report.num_changed_predictions} predictions changed",
            "classified": None if agrees else f"distance {distance:.2g}",
        },
        **exact,
    }


def _on_meta(name: str, listed_dim: int | None) -> dict[str, Any]:
    """Shapes alone: of the features, and of the class scores beside those of timm's own ``forward``."""
    with torch.device("meta"), torch.inference_mode():
        model = create_network(name)
        images_BCHW = torch.zeros((BATCH, *model.pretrained_cfg["input_size"]))
        maps = model.forward_features(images_BCHW)
        features = model.forward_head(maps, pre_logits=True)
        classes = num_classes_of(model)
        shapes = (tuple(model.forward_head(maps).shape), tuple(model(images_BCHW).shape)) if classes else None
    return {
        "device": "meta",
        "dim": features.shape[-1],
        "classes": classes,
        "wrong": {
            "listed": None if features.shape[-1] == listed_dim else f"with dimension {listed_dim}",
            "embedded": None if features.ndim == 2 and len(features) == BATCH else f"shape {tuple(features.shape)}",
            "classified": None
            if shapes is None or shapes == ((BATCH, classes),) * 2
            else f"class scores {shapes[0]}, timm {shapes[1]}, expected {(BATCH, classes)}",
        },
    }


def _noise(backbone: TimmBackbone) -> NDArray[np.uint8]:
    shape = (BATCH, backbone.preprocess.height, backbone.preprocess.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _image_set(images_BHWC: NDArray[np.uint8]) -> ImageSet:
    ids = [str(row) for row in range(BATCH)]
    return build_image_set(
        name="noise",
        ids=ids,
        labels_N=np.full(BATCH, -1, np.int64),
        split_N=np.full(BATCH, "test", SPLIT_DTYPE),
        class_names=(),
        metric="top1",
        source=ArraySource(images_BHWC, "memory"),
        provenance={},
    )


def _wrong_features(features_BD: NDArray[np.float32], dim: int) -> str | None:
    if features_BD.shape != (BATCH, dim):
        return f"shape {features_BD.shape} instead of {(BATCH, dim)}"
    return None if np.isfinite(features_BD).all() else "not finite"


def _is_itself(distance: float, num_changed: int | None) -> bool:
    """The same passes of the same network on the same pixels, twice; threads may add in another order."""
    return not math.isnan(distance) and distance <= ROUNDING and not num_changed


def _distance_from_timm(
    backbone: TimmBackbone, images_BHWC: NDArray[np.uint8], scores_BK: NDArray[np.float32]
) -> float:
    """Largest relative distance of an image's class scores from those of timm's ``forward``.

    timm's pass is given what its own transforms make: pixels / 255, less the mean, over the standard deviation.
    """
    with torch.inference_mode():
        timms_BK = backbone.model(_timms_pixels(backbone, images_BHWC)).numpy()
    return _largest_distance(scores_BK, timms_BK)


def _in_float64(backbone: TimmBackbone, images_BHWC: NDArray[np.uint8]) -> dict[str, float]:
    """The same comparison without rounding, and how far rounding takes timm's own pass, in the worse memory format.

    Random weights may amplify rounding until float32 says nothing (EfficientNetV2-RW-T: timm's scores in float32 are a
    tenth off its own in float64), and torch's group norm rounds more channels-last (ResNetV2-101 of BiT: 1.3e-4
    instead of 1e-5). Leaves the network in float64.
    """
    pixels_BCHW = _timms_pixels(backbone, images_BHWC)
    with torch.inference_mode():
        single_BK = backbone.model(pixels_BCHW).numpy()
        last_BK = backbone.model(pixels_BCHW.contiguous(memory_format=torch.channels_last)).numpy()
        model = backbone.model.double()
        double_BK = model(pixels_BCHW.double()).numpy()
        ours_BK = model.forward_head(model.forward_features(pixels_BCHW.double())).numpy()
    return {
        "float64": _largest_distance(ours_BK, double_BK),
        "timm_float32": max(_largest_distance(scores_BK, double_BK) for scores_BK in (single_BK, last_BK)),
    }


def _timms_pixels(backbone: TimmBackbone, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.preprocess.mean, backbone.preprocess.std))
    return (torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).contiguous() / 255.0 - mean) / std


def _largest_distance(scores_BK: NDArray[np.floating[Any]], reference_BK: NDArray[np.floating[Any]]) -> float:
    """Largest ||f - r|| / ||r|| of an image; infinite where the shapes differ."""
    if scores_BK.shape != reference_BK.shape:
        return math.inf
    norm_B = np.maximum(np.linalg.norm(reference_BK, axis=1), np.finfo(np.float32).tiny)
    return float((np.linalg.norm(scores_BK - reference_BK, axis=1) / norm_B).max())


def report(results: Mapping[str, Mapping[str, Any]], sizes_of: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return how many of how many, what was refused and what is wrong, and a row a network."""
    ok = {name: row for name, row in sorted(results.items()) if row["status"] == "ok"}
    return Report(
        bench="scan-models",
        title="Every architecture of timm through penultimate",
        settings={"weights": "random", "images": f"{BATCH} of noise, at the own input size of each network"},
        tables={
            "Refused, or wrong": [_wrong(name, row) for name, row in sorted(results.items()) if name not in ok],
            "Every network": [_well(name, row) for name, row in ok.items()],
        },
        results=[{"model": name, **row} for name, row in sorted(results.items())],
        findings=list(_sums(results, sizes_of)),
        not_measured=[
            "All well means: listed with the dimension it has, one finite vector an image, at no distance from its own "
            f"reference in the parity check, and class scores within {ROUNDING:g} (relative) of timm's own `forward`. "
            "On the meta device: the same of the shapes.",
            "Where random weights amplify rounding until timm's own float32 scores, contiguous or channels-last, are "
            "further than that from its float64 ones, the two are compared in float64. Random weights say nothing of "
            "rounding in trained networks; other precisions, compiling and GPUs were not scanned.",
        ],
    )


def _sums(results: Mapping[str, Mapping[str, Any]], sizes_of: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    left = [row["parameters"] / 1e6 for name, row in sizes_of.items() if name not in results and "parameters" in row]
    refused = sum(row["status"] == "refused" for row in results.values())
    ok = [row for row in results.values() if row["status"] == "ok"]
    devices = Counter(row["device"] for row in ok)
    yield (
        f"{len(results)} of the {len(timm.list_models())} architectures of timm {version('timm')} were scanned, "
        f"smallest first; {len(ok)} are all well: {devices['cpu']} computed on a CPU, {devices['meta']} (above 300 "
        f"million parameters) by their shapes on torch's meta device. {sum(row['classes'] == 0 for row in ok)} of them "
        f"have no classifier. {refused} are refused in one line; {len(results) - len(ok) - refused} are wrong."
    )
    if left:
        yield f"Not scanned: {len(left)}, of {min(left):.1f} to {max(left):.1f} million parameters."


def _well(name: str, row: Mapping[str, Any]) -> Row:
    distance = row.get("distance_from_timm")
    exact = f" (float64: {row['float64']:.1e})" if "float64" in row else ""
    return {
        "architecture": name,
        "device": row["device"],
        "D": str(row["dim"]),
        "K": str(row["classes"] or ""),
        "class scores, distance from timm's": "" if distance is None else f"{distance:.1e}{exact}",
    }


def _wrong(name: str, row: Mapping[str, Any]) -> Row:
    wrong = "; ".join(f"{OPENINGS[step]}: {found}" for step, found in row.get("wrong", {}).items())
    return {
        "architecture": name,
        "status": row["status"],
        "what": (wrong or row.get("reason", "")).replace("|", "/"),
    }


if __name__ == "__main__":
    main()
