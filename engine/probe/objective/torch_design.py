"""TorchDesign: the products of a design by torch, on any device.

Products at full precision run in the features' dtype and sum in it over blocks of ``ROWS`` rows, blocks in float64;
products for the Hessian run at a lower precision where the machine is faster in it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from penultimate.engine.probe.objective.design import Design, ScoreSpace
from penultimate.engine.probe.objective.duality_gap import Moments, Repair, moments
from penultimate.engine.probe.objective.losses import Loss, Targets
from penultimate.engine.probe.objective.problem import center_over_classes
from penultimate.engine.probe.objective.rotated_features import RotatedFeatures

# Shapes: N samples, B of them in a block, D feature dimensions, K classes, C of them at once, S strengths, M columns of
# scores (strengths x classes), R columns of the rotated features, X some rows of each class.

ROWS = 4096
"""Number of rows of a block in a float64 product: at 1,280 dimensions the block's copy takes 40 MB."""

NARROW = 64
"""Columns of scores below which their product is faster sample-major: 6 ms against 15 for 40 columns of CIFAR-10."""

WIDE = 64
"""Number of classes from which a Hessian product runs at the full speed of bfloat16 products."""

CACHED = 1 << 19
"""Number of scores worked on at once: 2 MB of float32, the second-level cache of a core."""

CLASSES = 8
"""Number of classes whose Gram matrices are made at once: their rows in float64 take 3 MB at 1,280 dimensions."""


class TorchDesign:
    """Features with products by torch; ``low`` is the dtype of Hessian products, None for that of the features."""

    def __init__(self, features: RotatedFeatures, low: torch.dtype | None) -> None:
        self.features = features
        self.low_NR = features.matrix_NR if low is None else features.matrix_NR.to(low)

    @property
    def precision(self) -> str:
        """Return the precision of gradients and of Hessian products."""
        return f"{dtype_name(self.features.matrix_NR)}/{dtype_name(self.low_NR)}"

    @property
    def rounding(self) -> float:
        """Return the relative rounding error of a weighted mean over the samples."""
        return torch.finfo(self.features.dtype).eps

    def gather(self, values_MN: Tensor, *, exact: bool = False) -> Tensor:
        """Return the weighted mean over samples of value x row, (M, R) float64."""
        features = self.features
        weighted_MN, scale = features.weighted(values_MN)
        if not exact and features.num_rows <= ROWS:
            return (weighted_MN @ features.matrix_NR).double() * scale
        if exact:
            return exact_product(weighted_MN, features.matrix_NR) * scale
        return blockwise_product(weighted_MN, features.matrix_NR) * scale

    def unrotate(self, weight_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (M, D) and biases (M,) float64 for the original features."""
        return self.features.basis.unrotate(weight_MR)

    def linear_loss(self, loss: Loss, targets: Targets) -> "TorchLinearLoss":
        """Return the passes over these features that depend on the loss and the labels."""
        return TorchLinearLoss(self, loss, targets)


class TorchLinearLoss:
    """The mean loss of a linear model on one design, by torch; the design multiplies for gradients."""

    def __init__(self, design: Design, loss: Loss, targets: Targets) -> None:
        self.design, self.features = design, design.features
        self.loss, self.targets = loss, targets

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (S, N) and residuals (S, K, N)."""
        residual_SKN = torch.empty_like(scores_SKN, dtype=self.features.dtype)
        loss_SN = residual_SKN.new_empty(scores_SKN.shape[0], scores_SKN.shape[2])
        for rows in _cached_rows(scores_SKN):
            written_SKB = residual_SKN[:, :, rows].copy_(scores_SKN[:, :, rows])
            loss_SN[:, rows], _ = self.loss.evaluate(written_SKB, self.targets.rows(rows))
        return loss_SN, residual_SKN

    def moments(self, residual_SKN: Tensor) -> Moments:
        """Return the sums over samples that a certificate is made from."""
        return moments(self.features, self.loss, self.targets, residual_SKN)

    def step_scores(self, weight_SKR: Tensor, step_SKR: Tensor) -> Tensor:
        """Return the change of scores (M, N) by a step, at full precision."""
        return self.features.scores(step_SKR.flatten(0, 1))

    def dual_gradient(self, residual_SKN: Tensor, repair: Repair, *, exact: bool) -> Tensor:
        """Return the gradient by the weights at the repaired dual point, (S, K, R) float64."""
        dual_SKN = repair.apply(self.loss, self.targets, residual_SKN)
        return self.design.gather(dual_SKN.flatten(0, 1), exact=exact).view(*residual_SKN.shape[:2], -1)

    def hessian_product(self, residual_SKN: Tensor, direction_SKR: Tensor) -> Tensor:
        """Return the Hessian times a direction, (S, K, R), at low precision, centred over classes."""
        low_NR = self.design.low_NR
        direction_MR = direction_SKR.flatten(0, 1).to(low_NR.dtype)
        total_MR = torch.zeros_like(direction_MR, dtype=torch.float32 if direction_MR.dtype == torch.bfloat16 else None)
        for rows in _cached_rows(residual_SKN):
            residual_SKB = residual_SKN[:, :, rows]
            scores_MB = self._low_scores(direction_MR, low_NR[rows])
            change_SKB = self.loss.hessian_product(
                residual_SKB, scores_MB.view_as(residual_SKB), self.targets.rows(rows)
            )
            total_MR += self._low_gather(change_SKB.flatten(0, 1), rows)
        return center_over_classes(self.loss, total_MR.view_as(direction_SKR))

    def score_space(self, first_KN: Tensor, others: Sequence[Tensor]) -> ScoreSpace:
        """Return the loss on the affine space of scores through these points."""
        step_MKN = torch.stack([other_KN - first_KN for other_KN in others])
        step_MX = step_MKN.flatten(1)

        def evaluate(coordinates: Sequence[float]) -> tuple[float, Tensor, Tensor]:
            moved_KN = torch.tensordot(step_MKN.new_tensor(coordinates), step_MKN, 1)
            loss_1N, residual_1KN = self.evaluate((first_KN + moved_KN)[None])
            weighted_1KN, scale = self.features.weighted(residual_1KN)
            gradient_M = step_MX @ weighted_1KN.flatten()
            change_MKN = self.loss.hessian_product(residual_1KN.expand_as(step_MKN), step_MKN.clone(), self.targets)
            hessian_MM = self.features.weighted(change_MKN)[0].flatten(1) @ step_MX.T
            loss = float(self.features.mean(loss_1N))
            return loss, gradient_M.double().cpu() * scale, hessian_MM.double().cpu() * scale

        return evaluate

    def class_rows(self, index_KX: Tensor, inverse_KR: Tensor) -> "TorchClassRows":
        """Return the rows at ``index_KX`` of each class, with the inverse of a diagonal."""
        rows_KXR = self.features.matrix_NR.index_select(0, index_KX.flatten()).view(*index_KX.shape, -1)
        return TorchClassRows(rows_KXR, inverse_KR)

    def _low_scores(self, direction_MR: Tensor, low_BR: Tensor) -> Tensor:
        """Return scores (M, B) of some rows, multiplied at low precision, in the main dtype."""
        scores_MB = (low_BR @ direction_MR.T).T if len(direction_MR) < NARROW else direction_MR @ low_BR.T
        return scores_MB.contiguous().to(self.features.dtype)

    def _low_gather(self, change_MB: Tensor, rows: slice) -> Tensor:
        """Return the part of a weighted mean that comes from some rows, (M, R), at low precision."""
        low_BR, weight_N = self.design.low_NR[rows], self.features.sample_weight_N
        if weight_N is None:
            return (change_MB.to(low_BR.dtype) @ low_BR) / self.features.num_rows
        return (change_MB * weight_N[rows].to(change_MB.dtype)).to(low_BR.dtype) @ low_BR


class TorchClassRows:
    """Copies of the rows of each class, (K, X, R), in the dtype of the features."""

    def __init__(self, rows_KXR: Tensor, inverse_KR: Tensor) -> None:
        self.rows_KXR, self.inverse_KR = rows_KXR, inverse_KR

    def gram(self) -> Tensor:
        """Return A D^-1 A' for each class, (K, X, X) float64."""
        grams = []
        for first in range(0, len(self.rows_KXR), CLASSES):
            some = slice(first, first + CLASSES)
            rows_CXR = self.rows_KXR[some].double()
            grams.append(torch.bmm(rows_CXR * self.inverse_KR[some, None], rows_CXR.transpose(1, 2)))
        return torch.cat(grams)

    def solve(self, inner_KXX: Tensor, residual_SKR: Tensor) -> Tensor:
        """Return (D^-1 - D^-1 A' inner A D^-1) residual, (S, K, R)."""
        rows_KXR, inverse_KR = self.rows_KXR, self.inverse_KR.to(residual_SKR.dtype)
        scaled_SKR = inverse_KR * residual_SKR
        # The rows on the right: as a row times a matrix, one strength's products take half as long as the other way.
        projected_KSX = torch.bmm(scaled_SKR.transpose(0, 1).to(rows_KXR.dtype), rows_KXR.transpose(1, 2))
        solved_KSX = torch.bmm(projected_KSX.double(), inner_KXX).to(rows_KXR.dtype)
        back_SKR = torch.bmm(solved_KSX, rows_KXR).transpose(0, 1)
        return torch.addcmul(scaled_SKR, inverse_KR, back_SKR, value=-1)


def dtype_name(values: Tensor) -> str:
    """Return the name of a tensor's dtype without torch's prefix, such as ``float32``."""
    return str(values.dtype).removeprefix("torch.")


def exact_product(values_MN: Tensor, matrix_NR: Tensor) -> Tensor:
    """Return values @ matrix, (M, R), multiplied and summed in float64."""
    total_MR = _zeros(values_MN, matrix_NR)
    wide_BR = torch.empty(ROWS, matrix_NR.shape[1], dtype=torch.float64, device=values_MN.device)
    for start in range(0, len(matrix_NR), ROWS):
        left, right = values_MN[:, start : start + ROWS], matrix_NR[start : start + ROWS]
        # Into the same memory each time: the page faults of a new copy took longer than the product.
        total_MR.addmm_(left.double(), wide_BR[: len(right)].copy_(right))
    return total_MR


def blockwise_product(values_MN: Tensor, matrix_NR: Tensor) -> Tensor:
    """Return values @ matrix, (M, R), in the matrix's dtype within a block of rows and in float64 over blocks."""
    total_MR = _zeros(values_MN, matrix_NR)
    for start in range(0, len(matrix_NR), ROWS):
        total_MR += values_MN[:, start : start + ROWS] @ matrix_NR[start : start + ROWS]
    return total_MR


def _zeros(values_MN: Tensor, matrix_NR: Tensor) -> Tensor:
    return torch.zeros(len(values_MN), matrix_NR.shape[1], dtype=torch.float64, device=values_MN.device)


def _cached_rows(scores_SKN: Tensor) -> list[slice]:
    """Return rows in pieces whose scores stay in a core's cache between operations; all at once on a GPU."""
    rows, columns = scores_SKN.shape[2], scores_SKN.shape[0] * scores_SKN.shape[1]
    piece = rows if scores_SKN.device.type == "cuda" else max(2048, CACHED // columns)
    return [slice(start, start + piece) for start in range(0, rows, piece)]
