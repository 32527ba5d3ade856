"""Losses agree with finite differences in float64."""

import pytest
import torch

from penultimate.engine.probe.objective.losses import LOSSES, Targets

# Shapes: N samples, K classes, S strengths.

S, K, N = 2, 5, 40


def scores_and_targets() -> tuple[torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(0)
    index_N = torch.randint(K, (N,), generator=generator)
    sign_KN = torch.nn.functional.one_hot(index_N, K).T.double() * 2 - 1
    return 2 * torch.randn(S, K, N, dtype=torch.float64, generator=generator), Targets(index_N, sign_KN)


@pytest.mark.parametrize("name", LOSSES)
def test_the_residual_is_the_derivative_of_the_loss(name: str) -> None:
    scores, targets = scores_and_targets()
    direction = torch.randn(S, K, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, residual = LOSSES[name].evaluate(scores, targets)
    step = 1e-5
    up, down = (LOSSES[name].evaluate(scores + sign * step * direction, targets)[0] for sign in (1, -1))
    torch.testing.assert_close((residual * direction).sum(1), (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_hessian_product_is_the_derivative_of_the_residual_and_curvature_its_diagonal(name: str) -> None:
    scores, targets = scores_and_targets()
    direction = torch.randn(S, K, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = LOSSES[name]
    _, residual = loss.evaluate(scores, targets)
    step = 1e-6
    up, down = (loss.evaluate(scores + sign * step * direction, targets)[1] for sign in (1, -1))
    torch.testing.assert_close(
        loss.hessian_product(residual, direction, targets), (up - down) / (2 * step), atol=1e-6, rtol=1e-5
    )
    unit = torch.zeros_like(direction)
    unit[:, 2] = 1
    column = loss.hessian_product(residual, unit, targets)[:, 2]
    torch.testing.assert_close(loss.curvature(residual, targets)[:, 2], column)


@pytest.mark.parametrize("name", LOSSES)
def test_scores_and_directions_are_kept_unless_the_residual_is_written_over_the_scores(name: str) -> None:
    scores, targets = scores_and_targets()
    given, loss = scores.clone(), LOSSES[name]
    value, residual = loss.evaluate(scores, targets)
    assert torch.equal(scores, given)
    over, written = loss.evaluate(scores, targets, out_SKN=scores)
    assert written is scores
    assert torch.equal(written, residual)
    assert torch.equal(over, value)
    direction = torch.randn(S, K, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given, kept = direction.clone(), residual.clone()
    loss.hessian_product(residual, direction, targets)
    assert torch.equal(direction, given)
    assert torch.equal(residual, kept)


@pytest.mark.parametrize("name", LOSSES)
def test_a_direction_may_be_the_same_for_all_samples(name: str) -> None:
    scores, targets = scores_and_targets()
    _, residual = LOSSES[name].evaluate(scores, targets)
    direction = torch.randn(S, K, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    product, expanded = (
        LOSSES[name].hessian_product(residual, given, targets) for given in (direction, direction.expand(S, K, N))
    )
    torch.testing.assert_close(product, expanded)


def test_softmax_keeps_its_relative_precision_when_a_sample_is_all_but_certain() -> None:
    """1 - p of about 1e-13 is lost in float32 when taken as a difference."""
    scores = torch.tensor([[[30.0], [0.0]]])
    loss, residual = LOSSES["softmax"].evaluate(scores, Targets(torch.tensor([0]), torch.empty(0, 0)))
    expected = float(torch.exp(torch.tensor(-30.0, dtype=torch.float64)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert residual.flatten().tolist() == pytest.approx([-expected, expected], rel=1e-5)
