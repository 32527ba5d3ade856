"""TorchDesign: the products of a design by torch, on any device.

Products at full precision run in the features' dtype and sum in it over blocks of ``ROWS`` rows, blocks in float64;
products for the Hessian run at a lower precision where the machine is faster in it.
"""

import functools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from penultimate.engine.probe.objective.design import Design, ScoreSpace
from penultimate.engine.probe.objective.duality_gap import Moments, Repair, moments
from penultimate.engine.probe.objective.losses import Loss, Targets
from penultimate.engine.probe.objective.pieces import gathered_rows, pieces, row_products
from penultimate.engine.probe.objective.problem import HessianHalves, center_over_classes
from penultimate.engine.probe.objective.rotated_features import RotatedFeatures

# Shapes: N samples, B of them in a block, D feature dimensions, K classes, C of them at once, S strengths, M columns of
# scores (strengths x classes), R columns of the rotated features, X some rows of each class.

ROWS = 4096
"""Number of rows of a block in a float64 product: at 1,280 dimensions the block's copy takes 40 MB."""

WIDE = 64
"""Number of classes from which a Hessian product runs at the full speed of bfloat16 products."""

CACHED = 1 << 19
"""Number of scores worked on at once: 2 MB of float32, the second-level cache of a core."""

READ_TWICE = 1 << 21
"""Number of features of the rows of some classes that two products read one after the other on a CPU: 8 MB of float32,
in the cache that its cores share. With 34 MB at once a solution took 3.0 ms instead of 2.6."""

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
            return gathered_rows(weighted_MN, features.by_columns_NR).double() * scale
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
        self._class_rows = torch.empty(0)
        """Memory of the rows of each class, used again: page faults of a new copy took longer than the copy."""

    def evaluate(self, scores_SKN: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (S, N) and residuals (S, K, N)."""
        return self._evaluate_rows(scores_SKN, slice(None))

    def _evaluate_rows(self, scores_SKB: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return losses (S, B) and residuals (S, K, B) of some rows."""
        targets = self.targets.rows(rows)
        residual_SKB = torch.empty_like(scores_SKB, dtype=self.features.dtype)
        loss_SB = residual_SKB.new_empty(scores_SKB.shape[0], scores_SKB.shape[2])
        for some in _pieces(scores_SKB, cpu_cached=True):
            inputs = scores_SKB[:, :, some], targets.rows(some)
            loss_SB[:, some], _ = self.loss.evaluate(*inputs, out_SKN=residual_SKB[:, :, some])
        return loss_SB, residual_SKB

    def moments(self, residual_SKN: Tensor) -> Moments:
        """Return the sums over samples that a certificate is made from."""
        mean = self.features.sample_mean
        parts = [
            moments(mean.rows(rows), self.loss, self.targets.rows(rows), residual_SKN[:, :, rows])
            for rows in _pieces(residual_SKN)
        ]
        return functools.reduce(operator.add, parts)

    def step_scores(self, weight_SKR: Tensor, step_SKR: Tensor) -> Tensor:
        """Return the change of scores (M, N) by a step, at full precision."""
        return self.features.scores(step_SKR.flatten(0, 1))

    def dual_gradient(self, residual_SKN: Tensor, repair: Repair, *, exact: bool) -> Tensor:
        """Return the gradient by the weights at the repaired dual point, (S, K, R) float64."""
        rows_of_pieces = _pieces(residual_SKN)
        if len(rows_of_pieces) == 1:
            dual_SKN = repair.apply(self.loss, self.targets, residual_SKN)
        else:
            dual_SKN = torch.empty_like(residual_SKN)
            for rows in rows_of_pieces:
                dual_SKN[:, :, rows] = repair.apply(self.loss, self.targets.rows(rows), residual_SKN[:, :, rows])
        return self.design.gather(dual_SKN.flatten(0, 1), exact=exact).view(*residual_SKN.shape[:2], -1)

    def hessian_product(self, residual_SKN: Tensor, direction_SKR: Tensor) -> Tensor:
        """Return the Hessian times a direction, (S, K, R), at low precision, centred over classes."""
        low_NR = self.design.low_NR
        direction_MR = direction_SKR.flatten(0, 1).to(low_NR.dtype)
        total_MR = torch.zeros_like(direction_MR, dtype=torch.float32 if direction_MR.dtype == torch.bfloat16 else None)
        for rows in _pieces(residual_SKN, cpu_cached=True):
            residual_SKB = residual_SKN[:, :, rows]
            scores_MB = self._low_scores(direction_MR, low_NR[rows])
            change_SKB = self.loss.hessian_product(
                residual_SKB, scores_MB.view_as(residual_SKB), self.targets.rows(rows)
            )
            total_MR += self._low_gather(change_SKB.flatten(0, 1), rows)
        return center_over_classes(self.loss, total_MR.view_as(direction_SKR))

    def hessian_halves(self, residual_SKN: Tensor, direction_SKR: Tensor, *, halfway: bool) -> HessianHalves:
        """Return both halves of a Hessian product, or the first alone."""
        low_NR, direction_MR = self.design.low_NR, direction_SKR.flatten(0, 1).to(self.design.low_NR.dtype)
        scores_SKN, total_MR = torch.empty_like(residual_SKN), torch.zeros_like(direction_MR)
        curvature_S = direction_MR.new_zeros(len(residual_SKN), dtype=torch.float64)
        for rows in _pieces(residual_SKN, cpu_cached=True):
            residual_SKB, mean = residual_SKN[:, :, rows], self.features.sample_mean.rows(rows)
            scores_SKB = scores_SKN[:, :, rows]
            row_products(direction_MR, low_NR[rows], out_MN=scores_SKN.flatten(0, 1)[:, rows])
            change_SKB = self.loss.hessian_product(residual_SKB, scores_SKB, self.targets.rows(rows))
            if halfway:
                curvature_S += mean.mean((change_SKB * scores_SKB).sum(1))
            else:
                total_MR += self._low_gather(change_SKB.flatten(0, 1), rows)
        if halfway:
            return HessianHalves(scores_SKN, curvature_S, None)
        product_SKR = center_over_classes(self.loss, total_MR.view_as(direction_SKR))
        return HessianHalves(scores_SKN, (direction_SKR * product_SKR).sum((1, 2)).double(), product_SKR)

    def score_space(self, first_KN: Tensor, others: Sequence[Tensor]) -> ScoreSpace:
        """Return the loss on the affine space of scores through these points."""
        rows_of_pieces = _pieces(first_KN.expand(len(others), -1, -1))
        # On a GPU the steps of a piece are made where they are used: of all samples they are what does not fit.
        kept = (
            [self._score_steps(first_KN, others, rows) for rows in rows_of_pieces] if len(rows_of_pieces) == 1 else []
        )

        def evaluate(coordinates: Sequence[float]) -> tuple[float, Tensor, Tensor]:
            total_X: Tensor | None = None
            for rows in rows_of_pieces:
                step_MKB = kept[0] if kept else self._score_steps(first_KN, others, rows)
                part_X = self._evaluate_space(first_KN, step_MKB, coordinates, rows)
                total_X = part_X if total_X is None else total_X + part_X
            assert total_X is not None
            total_X, count = total_X.cpu(), len(others)  # one copy for all three
            return float(total_X[0]), total_X[1 : count + 1], total_X[count + 1 :].view(count, count)

        return evaluate

    def _score_steps(self, first_KN: Tensor, others: Sequence[Tensor], rows: slice) -> Tensor:
        """Return the differences (M, K, B) of other scores from the first, of some rows."""
        return torch.stack([other_KN[:, rows] - first_KN[:, rows] for other_KN in others])

    def _evaluate_space(self, first_KN: Tensor, step_MKB: Tensor, coordinates: Sequence[float], rows: slice) -> Tensor:
        """Return the parts of loss, gradient and Hessian by the coordinates that some rows make, in a row, float64."""
        mean, targets = self.features.sample_mean.rows(rows), self.targets.rows(rows)
        step_KMB = step_MKB.transpose(0, 1)
        coordinate_M = step_MKB.new_empty(len(coordinates))
        for number, coordinate in zip(coordinate_M, coordinates, strict=True):
            number.fill_(coordinate)  # not copied, for which a GPU would wait
        moved_KB = torch.tensordot(coordinate_M, step_MKB, 1)
        loss_1B, residual_1KB = self._evaluate_rows((first_KN[:, rows] + moved_KB)[None], rows)
        weighted_1KB, scale = mean.weighted(residual_1KB)
        # In float64 from class to class: summed in float32 over all, a path took a seventh more products, because the
        # lowest point of the space was missed by as much as its nodes differ.
        gradient_M = torch.bmm(step_KMB, weighted_1KB[0, :, :, None])[:, :, 0].sum(0, dtype=torch.float64)
        change_MKB = self.loss.hessian_product(residual_1KB.expand_as(step_MKB), step_MKB, targets)
        weighted_KMB = mean.weighted(change_MKB)[0].transpose(0, 1)
        hessian_MM = torch.bmm(weighted_KMB, step_KMB.transpose(1, 2)).sum(0, dtype=torch.float64)
        return torch.cat([mean.mean(loss_1B), gradient_M * scale, hessian_MM.flatten() * scale])

    def class_rows(self, index_KX: Tensor, inverse_KR: Tensor) -> "TorchClassRows":
        """Return the rows at ``index_KX`` of each class, with the inverse of a diagonal, in place of those before."""
        matrix_NR, shape = self.features.matrix_NR, (index_KX.numel(), self.features.matrix_NR.shape[1])
        if self._class_rows.shape != shape:
            self._class_rows = matrix_NR.new_empty(shape)
        torch.index_select(matrix_NR, 0, index_KX.flatten(), out=self._class_rows)
        return TorchClassRows(self._class_rows.view(*index_KX.shape, -1), inverse_KR)

    def _low_scores(self, direction_MR: Tensor, low_BR: Tensor) -> Tensor:
        """Return scores (M, B) of some rows, multiplied at low precision, in the main dtype."""
        return row_products(direction_MR, low_BR).to(self.features.dtype)

    def _low_gather(self, change_MB: Tensor, rows: slice) -> Tensor:
        """Return the part of a weighted mean that comes from some rows, (M, R), at low precision."""
        low_NR, weight_N = self.design.low_NR, self.features.sample_weight_N
        low_BR = (self.features.by_columns_NR if low_NR is self.features.matrix_NR else low_NR)[rows]
        if weight_N is None:
            return gathered_rows(change_MB.to(low_BR.dtype), low_BR) / self.features.num_rows
        return gathered_rows((change_MB * weight_N[rows].to(change_MB.dtype)).to(low_BR.dtype), low_BR)


class TorchClassRows:
    """Copies of the rows of each class, (K, X, R), in the dtype of the features."""

    def __init__(self, rows_KXR: Tensor, inverse_KR: Tensor) -> None:
        self.rows_KXR, self.inverse_KR = rows_KXR, inverse_KR

    def gram(self) -> Tensor:
        """Return A D^-1 A' for each class, (K, X, X) float64."""
        classes, count, columns = self.rows_KXR.shape
        root_KR = self.inverse_KR.double().sqrt()
        gram_KXX = root_KR.new_empty(classes, count, count)
        memory_CXR = root_KR.new_empty(CLASSES, count, columns)
        for first in range(0, classes, CLASSES):
            some = slice(first, first + CLASSES)
            rows_CXR = self.rows_KXR[some]
            scaled_CXR = memory_CXR[: len(rows_CXR)].copy_(rows_CXR).mul_(root_KR[some, None])
            torch.bmm(scaled_CXR, scaled_CXR.transpose(1, 2), out=gram_KXX[some])
        return gram_KXX

    def solve(self, inner_KXX: Tensor, residual_SKR: Tensor) -> Tensor:
        """Return (D^-1 - D^-1 A' inner A D^-1) residual, (S, K, R)."""
        rows_KXR, inverse_KR = self.rows_KXR, self.inverse_KR.to(residual_SKR.dtype)
        scaled_SKR = inverse_KR * residual_SKR
        scaled_KSR = scaled_SKR.transpose(0, 1).to(rows_KXR.dtype)
        back_KSR, numbers = torch.empty_like(scaled_KSR), rows_KXR[0].numel()
        for some in pieces(len(rows_KXR), numbers, rows_KXR.device, cpu_piece=max(1, READ_TWICE // numbers)):
            # The rows on the right: a row times a matrix takes half as long as the other way.
            projected_CSX = torch.bmm(scaled_KSR[some], rows_KXR[some].transpose(1, 2))
            solved_CSX = torch.bmm(projected_CSX.double(), inner_KXX[some]).to(rows_KXR.dtype)
            torch.bmm(solved_CSX, rows_KXR[some], out=back_KSR[some])
        return torch.addcmul(scaled_SKR, inverse_KR, back_KSR.transpose(0, 1), value=-1)


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
        total_MR += gathered_rows(values_MN[:, start : start + ROWS], matrix_NR[start : start + ROWS])
    return total_MR


def _zeros(values_MN: Tensor, matrix_NR: Tensor) -> Tensor:
    return torch.zeros(len(values_MN), matrix_NR.shape[1], dtype=torch.float64, device=values_MN.device)


def _pieces(values_XN: Tensor, *, cpu_cached: bool = False) -> list[slice]:
    """Return the samples in pieces that fit a GPU's memory, on a CPU all at once or, ``cpu_cached``, a core's cache."""
    rows = values_XN.shape[-1]
    columns = values_XN.numel() // max(1, rows)
    cpu_piece = max(2048, CACHED // columns) if cpu_cached else None
    return pieces(rows, columns, values_XN.device, cpu_piece=cpu_piece)
