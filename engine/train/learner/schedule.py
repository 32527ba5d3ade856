"""Make the optimiser and the learning-rate schedule of a Recipe by timm's factories; the batch-norm momentum rule.

Source of the rules: Chen et al. 2020 (SimCLR), appendix B.8, which says it follows Kornblith et al. 2019.
"""

from typing import Protocol, cast

from torch import nn
from torch.optim import Optimizer

from penultimate.engine.train.recipe import Recipe


class Scheduler(Protocol):
    """The part of timm's Scheduler that is used here; the learning rate is a pure function of the update."""

    def step_update(self, num_updates: int) -> None:
        """Set the learning rate of the update after ``num_updates``."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Make SGD with Nesterov momentum, its weight decay divided by the learning rate.

    torch's SGD takes ``lr * decay * w`` off each weight, so ``decay = weight_decay / learning_rate`` takes off the
    fraction ``weight_decay`` at the top of the cosine, whatever the learning rate is.
    """
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    optimizer: Optimizer = create_optimizer_v2(
        model,
        opt="sgd",  # timm's name for SGD with Nesterov momentum
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay / recipe.learning_rate,
        filter_bias_and_bn=not recipe.decay_all,
    )
    return optimizer


def make_scheduler(optimizer: Optimizer, recipe: Recipe) -> Scheduler:
    """Make a cosine from the full learning rate at update 0 to zero after the last, with a linear warm-up if set."""
    from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=recipe.steps,  # timm counts in "epochs" of one update each
        warmup_epochs=recipe.warmup_steps,
        warmup_lr=0.0,
        min_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return cast("Scheduler", scheduler)


def batch_norm_momentum(steps_per_epoch: int) -> float:
    """Return the weight of the newest batch in batch norm's running statistics, in torch's convention.

    The paper's decay of the old statistics is max(1 - 10/s, 0.9) with s steps an epoch; torch's momentum is one
    minus that.

    >>> [round(batch_norm_momentum(s), 3) for s in (5, 100, 1000)]
    [0.1, 0.1, 0.01]
    """
    return 1.0 - max(1.0 - 10.0 / steps_per_epoch, 0.9)


def set_batch_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Give every batch norm that keeps running statistics this momentum."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
