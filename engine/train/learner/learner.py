"""Learner: a network with all the state that changes while it is trained, and one update of it."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from penultimate.engine.backbones.architectures.auxiliary import AuxiliaryNetwork, total_loss
from penultimate.engine.backbones.architectures.network import to_channels_last
from penultimate.engine.runtime.capabilities import has_compiler
from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic
from penultimate.engine.train.augment.draws import dropout_seed
from penultimate.engine.train.evaluate import autocast
from penultimate.engine.train.learner.depthwise import compute_depthwise_in_float32
from penultimate.engine.train.learner.losses import TrainingLoss
from penultimate.engine.train.learner.network import InitialModel, Normalise, build_network, with_heads
from penultimate.engine.train.learner.schedule import make_optimizer, make_scheduler
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.world import World
from penultimate.store.errors import UnavailableError

# Shapes: B images of a batch, H x W pixels, C = 3 channels (RGB), K classes.


class Learner:
    """Network, optimiser and averaged weights. All random numbers of an update are seeded by (seed, step, rank)."""

    def __init__(
        self, initial: InitialModel, recipe: Recipe, *, num_classes: int, steps_per_epoch: int, world: World
    ) -> None:
        """Build all parts.

        Raises what ``build_network`` and ``World.wrap`` raise, UnavailableError if torch's compiler cannot work.
        """
        self._recipe = recipe
        self._world = world
        network = build_network(initial, recipe, num_classes=num_classes, steps_per_epoch=steps_per_epoch)
        if world.device.type == "cpu" and recipe.precision != "float32":
            compute_depthwise_in_float32(network)
        self._network = network.to(world.device)
        if recipe.channels_last:
            to_channels_last(self._network)
        self._trained = with_heads(self._network, recipe).to(world.device)
        self._normalise = Normalise(recipe.preprocess.mean, recipe.preprocess.std).to(world.device)
        trained = world.wrap(self._trained)  # before the optimiser and the average: it may replace batch norms
        self._forward = _compiled(trained) if recipe.compile else trained
        self._optimizer = make_optimizer(self._trained, recipe)
        self._loss = TrainingLoss(recipe.loss, smoothing=recipe.label_smoothing)
        self._scheduler = make_scheduler(self._optimizer, recipe)
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "float16")
        self._average = _average(self._network, recipe)

    @property
    def evaluated(self) -> nn.Module:
        """Return the network to evaluate (averaged if there is an average): images (B, H, W, C) to logits (B, K)."""
        return nn.Sequential(self._normalise, self._kept)

    @property
    def _kept(self) -> nn.Module:
        return self._network if self._average is None else cast("nn.Module", self._average.module)

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the latest update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def update(self, step: int, images_BHWC: Tensor, targets: Tensor) -> Tensor:
        """Do update ``step``, counted from 0, on one batch. Returns its loss, a scalar on the device."""
        with float32_arithmetic(tf32=self._recipe.precision == "tf32"):
            return self._update(step, images_BHWC, targets)

    def _update(self, step: int, images_BHWC: Tensor, targets: Tensor) -> Tensor:
        self._scheduler.step_update(step)
        self._seed(step)
        self._forward.train()
        if images_BHWC.is_cuda:  # the augmenter's stream must not reuse their memory before this one is done
            images_BHWC.record_stream(torch.cuda.current_stream())
        pixels_BCHW = self._normalise(self._on_device(images_BHWC))
        with autocast(self._recipe, self._world.device):
            outputs = self._forward(pixels_BCHW)
        loss = self._loss_of(outputs, self._on_device(targets))
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._network, step=step + 1)
        return loss.detach()

    def _on_device(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the device, from pinned memory: a copy from other memory waits for all queued updates."""
        if self._world.device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._world.device, non_blocking=True)

    def _loss_of(self, outputs: Any, targets: Tensor) -> Tensor:
        if isinstance(self._trained, AuxiliaryNetwork):
            return total_loss(self._loss, outputs, targets, weight=self._trained.loss_weight)
        loss: Tensor = self._loss(outputs, targets)
        return loss

    def _seed(self, step: int) -> None:
        """Seed torch's global generators, which dropout draws from; ``train_run`` restores their state when it ends."""
        seed = dropout_seed(self._recipe, step, self._world.rank)
        torch.default_generator.manual_seed(seed)
        if self._world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def weights(self) -> dict[str, Tensor]:
        """Return the learned tensors by timm's names, contiguous, on the CPU."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self._kept.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return all that later updates depend on, except generators and schedule, which are functions of the step."""
        return {
            "trained": self._trained.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.module.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to the state that a checkpoint holds."""
        self._trained.load_state_dict(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])


def _compiled(model: nn.Module) -> nn.Module:
    if not has_compiler():
        raise UnavailableError("--compile needs a C++ compiler (g++ or clang++), which is not here")
    return cast("nn.Module", torch.compile(model))


def _average(network: nn.Module, recipe: Recipe) -> Any:
    """Make timm's ModelEmaV3 if the recipe asks for it.

    Its decay warms up: without that, the average of fewer updates than 1 / (1 - decay) is mostly initial weights.
    """
    if recipe.ema_decay is None:
        return None
    from timm.utils import ModelEmaV3  # type: ignore[attr-defined]

    return ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=True)
