"""Decide whether compiling a network pays for the images at hand."""

import time
from dataclasses import dataclass

import numpy as np

from penultimate.engine.backbones.own.own_network import OwnNetwork
from penultimate.engine.backbones.timm_backbone import TimmBackbone
from penultimate.engine.runtime.capabilities import has_compiler

# Shapes: B images of a batch.

COMPILE_SECONDS = {"cpu": 25.0, "cuda": 60.0}
"""Kind of device -> seconds that compiling one network takes. CPU: 15 to 40 s measured for EfficientNet-Lite0 and
ResNet-50 on 2 cores, a quarter where torch still has the kernels from before. CUDA: an estimate, not measured."""

SAVED_FRACTION = {
    "cpu": {"float32": 0.3, "bfloat16": 0.35, "float16": 0.2},
    "cuda": {"float32": 0.3, "tf32": 0.12, "bfloat16": 0.12, "float16": 0.12},
}
"""Kind of device -> precision -> fraction of the eager time that compiling saves. CPU, EfficientNet-Lite0: 0.43 of
processor time in float32, 0.38 in bfloat16, 0.20 in float16 (``benchmarks/results/extract_cpu_202611.md``). CUDA: an
estimate, not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileDecision:
    """The decision whether to compile a network, and its reason."""

    compile: bool
    """True if the network is to be compiled."""

    reason: str
    """Reason in one line, for people."""


def decide_compile(
    backbone: TimmBackbone, num_images: int, *, batch_size: int, replicas: int, requested: bool | None
) -> CompileDecision:
    """Decide as ``requested``, or if that is None, by an estimate of whether compiling pays for ``num_images``.

    A network of the user's, which may do what torch's compiler cannot, is compiled only where that is requested.

    The estimate times one eager batch of ``batch_size`` (after one that is not counted) and compares the seconds that
    compiling would save with those it takes. On a CPU all replicas run at that speed side by side; on a GPU, which one
    batch fills, they take turns.
    """
    if num_images == 0:
        return CompileDecision(compile=False, reason=f"{backbone.name}: nothing to compute")
    if requested is not None:
        return CompileDecision(
            compile=requested, reason=f"{backbone.name}: {'' if requested else 'not '}compiled, as asked"
        )
    if isinstance(backbone.model, OwnNetwork):
        return CompileDecision(
            compile=False, reason=f"{backbone.name}: not compiled: networks of your own are where --compile asks for it"
        )
    if not has_compiler():
        return CompileDecision(compile=False, reason=f"{backbone.name}: not compiled, no C++ compiler here")
    kind = backbone.device.type
    eager = num_images * _eager_seconds(backbone, batch_size) / (replicas if kind == "cpu" else 1)
    saved, cost = SAVED_FRACTION[kind][backbone.precision] * eager, COMPILE_SECONDS[kind]
    pays = saved > cost
    return CompileDecision(
        compile=pays,
        reason=f"{backbone.name}: {'' if pays else 'not '}compiled: {num_images:,} images take about {eager:,.0f} s; "
        f"compiling takes about {cost:.0f} s and saves about {saved:,.0f} s (--compile, --no-compile to choose)",
    )


def _eager_seconds(backbone: TimmBackbone, batch_size: int) -> float:
    """Measure the seconds of one image in an eager batch of ``batch_size``, after a batch that is not counted."""
    black_BHWC = np.zeros((batch_size, backbone.preprocess.height, backbone.preprocess.width, 3), np.uint8)
    backbone.embed(black_BHWC)
    started = time.perf_counter()
    backbone.embed(black_BHWC)
    return (time.perf_counter() - started) / batch_size
