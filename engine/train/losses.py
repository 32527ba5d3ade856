"""What is minimised: softmax cross-entropy, or one sigmoid a class; means over the batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from penultimate.engine.train.recipe import LossName

# Shapes: B images, K classes.


def loss_of(outputs: Tensor | tuple[Tensor, ...], targets: Tensor, *, loss: LossName, smoothing: float) -> Tensor:
    """Mean over the batch of the loss of ``outputs`` (B, K); ``targets`` are (B,) classes or (B, K) 0/1.

    ``softmax``: cross-entropy with the target (1 - smoothing) * onehot + smoothing / K. ``sigmoid``: the sum over
    classes of binary cross-entropies, a classifier a class, with targets moved by smoothing / 2 towards the other.
    """
    logits_BK = outputs if isinstance(outputs, Tensor) else outputs[0]
    logits_BK = logits_BK.float()  # autocast may have given less
    if loss == "softmax":
        return F.cross_entropy(logits_BK, targets, label_smoothing=smoothing)
    onehot_BK = targets if targets.ndim == 2 else F.one_hot(targets, logits_BK.shape[1])
    smoothed_BK = onehot_BK.float() * (1.0 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits_BK, smoothed_BK, reduction="none").sum(dim=1).mean()


def objective(
    outputs: Tensor | tuple[Tensor, ...],
    targets: Tensor,
    *,
    loss: LossName,
    smoothing: float,
    auxiliary_weight: float,
) -> Tensor:
    """``loss_of`` the outputs plus ``auxiliary_weight`` times that of each auxiliary head, which come after them."""
    if isinstance(outputs, Tensor):
        return loss_of(outputs, targets, loss=loss, smoothing=smoothing)
    main, *auxiliary = (loss_of(part, targets, loss=loss, smoothing=smoothing) for part in outputs)
    return main + auxiliary_weight * torch.stack(auxiliary).sum()
