import math

import pytest
import torch
from torch import nn

from penultimate.engine.train.learner.schedule import (
    batch_norm_momentum,
    make_optimizer,
    make_scheduler,
    set_batch_norm_momentum,
)
from penultimate.engine.train.recipe import Recipe


def _rates(recipe: Recipe) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    scheduler = make_scheduler(optimizer, recipe)
    rates = []
    for step in range(recipe.steps):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_the_cosine_starts_at_the_full_rate_and_would_be_zero_after_the_last_update(recipe: Recipe) -> None:
    rates = _rates(recipe.replace(steps=50))
    assert rates == pytest.approx([0.05 * 0.5 * (1 + math.cos(math.pi * t / 50)) for t in range(50)], rel=1e-12)


def test_warm_up_rises_along_a_line_and_then_meets_the_cosine(recipe: Recipe) -> None:
    rates, plain = _rates(recipe.replace(steps=50, warmup_steps=10)), _rates(recipe.replace(steps=50))
    assert rates[:10] == pytest.approx([0.05 * t / 10 for t in range(10)])
    assert rates[10:] == pytest.approx(plain[10:])


def test_one_update_takes_the_papers_weight_decay_off_a_weight_whatever_the_learning_rate(recipe: Recipe) -> None:
    for rate in (0.5, 0.001):
        layer = nn.Linear(3, 3).double()  # float64: 1e-4 off a weight is read to eleven digits
        before = layer.weight.detach().clone()
        optimizer = make_optimizer(layer, recipe.replace(learning_rate=rate, weight_decay=1e-4, momentum=1e-13))
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), before * (1 - 1e-4), rtol=1e-11, atol=0)


def test_biases_are_decayed_only_if_asked(recipe: Recipe) -> None:
    for decay_all, groups in ((False, {0.0, 1e-4 / 0.05}), (True, {1e-4 / 0.05})):
        optimizer = make_optimizer(nn.Linear(3, 3), recipe.replace(decay_all=decay_all))
        assert {group["weight_decay"] for group in optimizer.param_groups} == groups
        assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_batch_norm_keeps_the_papers_share_of_the_old_statistics() -> None:
    norm = nn.BatchNorm1d(1)
    set_batch_norm_momentum(norm, batch_norm_momentum(400))
    norm(torch.tensor([[4.0], [6.0]]))
    # decay 1 - 10/400 of the initial mean 0, the rest of the batch's 5; float32
    torch.testing.assert_close(norm.running_mean, torch.tensor([(10 / 400) * 5.0]))
    assert 1 - batch_norm_momentum(50) == pytest.approx(0.9)
