"""TrainingLoss: softmax cross-entropy, or one sigmoid for each class; means over the batch."""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from penultimate.engine.train.options import LossName
from penultimate.store.labels import PRESENT

# Shapes: B images, K classes.


class TrainingLoss(nn.Module):
    """Maps logits (B, K) in any precision and targets, (B,) classes or (B, K) as in ``store.labels``, to a mean loss.

    ``softmax``: cross-entropy with the target (1 - smoothing) * onehot + smoothing / K (Szegedy et al. 2016).
    ``sigmoid``: the sum over classes of binary cross-entropies, one classifier for each class, with each target moved
    by smoothing / 2 towards the other.
    """

    def __init__(self, name: LossName, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self._name = name
        self._smoothing = smoothing

    def forward(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if self._name == "softmax":
            return cross_entropy(logits_BK.float(), targets, label_smoothing=self._smoothing)
        onehot_BK = targets.eq(PRESENT) if targets.ndim == 2 else one_hot(targets, logits_BK.shape[1])
        smoothed_BK = onehot_BK.float() * (1.0 - self._smoothing) + self._smoothing / 2
        return binary_cross_entropy_with_logits(logits_BK.float(), smoothed_BK, reduction="none").sum(dim=1).mean()
