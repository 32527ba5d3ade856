"""Evaluate a network on the images of one split, each decoded by the rule of its Preprocess."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.metrics import metric_named
from penultimate.engine.runtime.devices import PRECISIONS
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.engine.train.learner.losses import TrainingLoss
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World
from penultimate.store.errors import DecodeError

# Shapes: N images of the split that could be decoded, B images of a batch, K classes.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """Predictions for the images of a split that could be decoded, in the order of their rows."""

    rows_N: NDArray[np.int64]
    """Rows of the ImageSet, increasing."""

    labels: NDArray[Any]
    """Class indices (N,), or the matrix (N, K) of ``store.labels``."""

    logits_NK: NDArray[np.float32]
    loss: float
    """Mean of the training loss, without label smoothing."""

    failed: Mapping[int, str]
    """Row of an image that could not be decoded -> reason."""

    def score(self, metric: str) -> float:
        """Return a metric of these predictions, a fraction in [0, 1]."""
        return metric_named(metric)(self.logits_NK, self.labels)


def evaluate(
    model: nn.Module,
    images: ImageSet,
    rows: NDArray[np.int64],
    recipe: Recipe,
    *,
    decoder: Decoder,
    batch_size: int,
    world: World,
) -> Evaluation:
    """Run ``model`` (uint8 images in, logits out) over ``rows``, divided among the world.

    Raises DecodeError if none of them can be decoded.
    """
    mine = rows[world.rank :: world.size]
    seen: list[NDArray[np.int64]] = []
    logits: list[NDArray[np.float32]] = []
    failed: dict[int, str] = {}
    model.eval()
    for batch in decoder.batches(images, mine, [recipe.preprocess], batch_size=batch_size):
        failed |= batch.failed
        if len(batch.indices_B):
            seen.append(batch.indices_B)
            logits.append(_logits(model, batch.views[0], recipe, world))
    parts = world.gather((seen, logits, failed))
    return _assembled(images, rows, recipe, parts)


def _logits(model: nn.Module, view_BHWC: Pixels, recipe: Recipe, world: World) -> NDArray[np.float32]:
    if isinstance(view_BHWC, np.ndarray):
        # torch wants memory it may write to; decoders hand out read-only views, which are copied here.
        view_BHWC = torch.from_numpy(np.require(view_BHWC, requirements=["C", "W"]))
    images_BHWC = view_BHWC.to(world.device)
    arithmetic = float32_arithmetic(tf32=recipe.precision == "tf32")
    with torch.inference_mode(), autocast(recipe, world.device), arithmetic:
        outputs: Tensor = model(images_BHWC)
    return np.asarray(outputs.float().cpu().numpy(), dtype=np.float32)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the context in which the network computes."""
    dtype = PRECISIONS[recipe.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


_Part = tuple[list[NDArray[np.int64]], list[NDArray[np.float32]], dict[int, str]]


def _assembled(images: ImageSet, rows: NDArray[np.int64], recipe: Recipe, parts: list[_Part]) -> Evaluation:
    failed = {row: reason for part in parts for row, reason in part[2].items()}
    seen = [found for part in parts for found in part[0]]
    if not seen:
        row, reason = next(iter(failed.items()))
        raise DecodeError(f"none of {len(rows)} images could be decoded; the first, {images.ids_N[row]}: {reason}")
    rows_N = np.concatenate(seen)
    order_N = np.argsort(rows_N, kind="stable")
    rows_N, logits_NK = rows_N[order_N], np.concatenate([logits for part in parts for logits in part[1]])[order_N]
    labels = images.labels_N[rows_N]
    loss = TrainingLoss(recipe.loss)(torch.from_numpy(logits_NK), torch.from_numpy(labels))
    return Evaluation(rows_N=rows_N, labels=labels, logits_NK=logits_NK, loss=float(loss), failed=failed)
