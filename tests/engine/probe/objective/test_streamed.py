"""Passes over streamed features give the derivatives of the mean loss, whatever is held and left out."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.probe_cases import mixture
from torch import Tensor

from penultimate.engine.probe.objective.losses import Softmax, Targets
from penultimate.engine.probe.objective.rotated_features import Basis
from penultimate.engine.probe.objective.streamed import RowSource, StreamedProblem

# Shapes: N samples, B of them in a block, K classes, S strengths, T of them that move, D feature dimensions, R = D + 1.

ROWS, DIMS, CLASSES, STRENGTHS, BLOCK = 300, 12, 4, 3, 128


class CountedSoftmax(Softmax):
    """The loss, and the number of strengths of every product."""

    def __init__(self) -> None:
        self.strengths: list[int] = []

    def hessian_product(self, residual_SKN: Tensor, direction_SKN: Tensor, targets: Targets) -> Tensor:
        self.strengths.append(len(residual_SKN))
        return super().hessian_product(residual_SKN, direction_SKN, targets)


def problem_of(
    features_ND: NDArray[np.floating], labels_N: NDArray[np.int64], *, holds_residuals: bool
) -> tuple[StreamedProblem, CountedSoftmax]:
    loss, mean_D = CountedSoftmax(), torch.from_numpy(features_ND.astype(np.float32)).mean(0)
    problem = StreamedProblem(
        RowSource.of(features_ND),
        BLOCK,
        Basis(mean_D, torch.eye(DIMS, dtype=torch.float64)),
        torch.ones(DIMS + 1, dtype=torch.float64),
        loss,
        Targets(torch.from_numpy(labels_N), torch.empty(0, 0)),
        holds_residuals=holds_residuals,
    )
    return problem, loss


def drawn(seed: int) -> Tensor:
    return torch.randn(STRENGTHS, CLASSES, DIMS + 1, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("holds_residuals", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_derivatives_are_those_of_the_mean_loss(holds_residuals: bool, dtype: type) -> None:
    features_ND, labels_N = mixture(ROWS, DIMS, CLASSES)
    features_ND = features_ND.astype(dtype)
    problem, _ = problem_of(features_ND, labels_N, holds_residuals=holds_residuals)
    weight_SKR, direction_SKR = drawn(1), drawn(2)
    centred_ND = torch.from_numpy(features_ND.astype(np.float64)) - problem.basis.mean_D
    ones_NR = torch.cat([centred_ND, torch.ones(ROWS, 1)], 1)
    labels = torch.from_numpy(labels_N)

    def mean_loss(weight_KR: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(ones_NR @ weight_KR.T, labels)

    point = problem.start(weight_SKR)
    assert (point.residual_SKN is not None) == holds_residuals
    product_SKR = problem.hessian_product(point, direction_SKR, exact=False)
    for s in range(STRENGTHS):
        assert point.loss_S[s] == pytest.approx(float(mean_loss(weight_SKR[s])), rel=1e-5)
        weight_KR = weight_SKR[s].clone().requires_grad_()
        (gradient_KR,) = torch.autograd.grad(mean_loss(weight_KR), weight_KR, create_graph=True)
        (wanted_KR,) = torch.autograd.grad((gradient_KR * direction_SKR[s]).sum(), weight_KR)
        torch.testing.assert_close(product_SKR[s], wanted_KR, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("holds_residuals", [True, False])
def test_a_product_is_made_of_the_strengths_alone_whose_direction_is_not_zero(holds_residuals: bool) -> None:
    problem, loss = problem_of(*mixture(ROWS, DIMS, CLASSES), holds_residuals=holds_residuals)
    point, direction_SKR = problem.start(drawn(1)), drawn(2)
    whole_SKR = problem.hessian_product(point, direction_SKR, exact=False)
    assert set(loss.strengths) == {STRENGTHS}
    loss.strengths.clear()
    direction_SKR[1] = 0
    product_SKR = problem.hessian_product(point, direction_SKR, exact=False)
    assert loss.strengths == [STRENGTHS - 1] * 3  # in three blocks
    assert not product_SKR[1].any()
    wanted_TKR = whole_SKR[[0, 2]]
    if not holds_residuals:  # made again of these two alone, whose 8 columns float32 may round otherwise than 12
        alone = problem.start(point.weight_SKR[[0, 2]])
        wanted_TKR = problem.hessian_product(alone, direction_SKR[[0, 2]], exact=False)
    torch.testing.assert_close(product_SKR[[0, 2]], wanted_TKR)


def test_gradients_from_held_residuals_are_those_made_again() -> None:
    features_ND, labels_N = mixture(ROWS, DIMS, CLASSES)
    found = []
    for holds_residuals in (True, False):
        problem, _ = problem_of(features_ND, labels_N, holds_residuals=holds_residuals)
        found.append(problem.gradients(problem.start(0.1 * drawn(1)), exact=False).step_SKR)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-7)
