"""Training on a simulated GPU: the CPU's run, no mixed devices, and updates that never wait for the device."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.simulated_cuda import SimulatedCuda, simulated_cuda

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.train.augment.augmenter import CropSettings, augmented
from penultimate.engine.train.augment.draws import draw_batch
from penultimate.engine.train.augment.factory import make_augmenter
from penultimate.engine.train.learner.learner import Learner
from penultimate.engine.train.learner.network import InitialModel
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.meters import LossMean
from penultimate.engine.train.runs.resources import Resources
from penultimate.engine.train.runs.run import _ASK_EVERY, _Run, train_run
from penultimate.engine.train.world import World

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedCuda]:
    with simulated_cuda() as device:
        # torch takes no stream but its own
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        # Its generator is the CPU's, which the run seeds and restores anyway.
        monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: None)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.get_rng_state())
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: None)
        yield device


def learner_on(device: torch.device, initial: InitialModel, recipe: Recipe) -> Learner:
    world = World(rank=0, size=1, device=device)
    return Learner(initial, recipe, num_classes=3, steps_per_epoch=6, world=world)


def losses_of(
    learner: Learner, images: ImageSet, recipe: Recipe, *, on_gpu: bool, steps: int = 3
) -> list[torch.Tensor]:
    """Do some updates, on pixels of the host or of the device."""
    draws = (draw_batch(recipe, np.arange(len(images)), step) for step in range(steps))
    found = []
    for batch in augmented(make_augmenter("pillow", num_workers=1, device=CPU), images, draws, CropSettings.of(recipe)):
        pixels = batch.images_BHWC.to(GPU) if on_gpu else batch.images_BHWC
        targets = torch.from_numpy(images.labels_N[batch.rows_B])
        found.append(learner.update(batch.step, pixels, targets))
    return found


@pytest.mark.parametrize("decoded_on", ["host", "device"])
def test_updates_are_those_of_the_cpu(
    cuda: SimulatedCuda, images: ImageSet, initial: InitialModel, recipe: Recipe, decoded_on: str
) -> None:
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]  # torch's default
    expected = losses_of(learner_on(CPU, initial, recipe), images, recipe, on_gpu=False)
    found = losses_of(learner_on(GPU, initial, recipe), images, recipe, on_gpu=decoded_on == "device")
    assert all(loss.is_cuda for loss in found)
    # float32 sums in another order, which batch norm over four images magnifies; TF32 is a fifth off after one update
    np.testing.assert_allclose([float(x) for x in found], [float(x) for x in expected], rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("decoded_on", ["host", "device"])
def test_an_update_never_waits_for_the_device(
    cuda: SimulatedCuda,
    images: ImageSet,
    initial: InitialModel,
    recipe: Recipe,
    precision: Any,
    decoded_on: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe.replace(precision=precision, dropout=0.3)
    learner, losses = learner_on(GPU, initial, recipe), LossMean(GPU)
    update = learner.update

    def counted(step: int, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        cuda.reset()
        loss = update(step, pixels, targets)
        losses.add(loss)
        assert cuda.syncs.total() == 0, cuda.syncs.table()
        assert cuda.to_host.total() == 0, cuda.to_host.table()
        assert cuda.pageable.total() == 0, cuda.pageable.table()
        assert cuda.to_device.total() == (1 if decoded_on == "device" else 2), cuda.to_device.table()
        return loss

    monkeypatch.setattr(learner, "update", counted)
    losses_of(learner, images, recipe, on_gpu=decoded_on == "device")
    assert losses.take("log", World(rank=0, size=1, device=GPU)) > 0


def test_a_run_is_that_of_the_cpu_and_evaluates_on_the_device(
    cuda: SimulatedCuda,
    images: ImageSet,
    initial: InitialModel,
    recipe: Recipe,
    resources: Resources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_gpu = replace(resources, world=World(rank=0, size=1, device=GPU))
    monkeypatch.setattr("penultimate.engine.train.runs.run.save_checkpoint", lambda *state: None)  # no file holds these
    # Few and small updates: batch norm over four images magnifies rounding tenfold in each.
    recipe = recipe.replace(learning_rate=1e-3, steps=4, eval_every=2)
    expected = train_run(images, initial, recipe, tmp_path / "cpu", resources)
    found = train_run(images, initial, recipe, tmp_path / "gpu", on_gpu)
    assert found.status == expected.status == "finished"
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2)


def test_a_resumed_runs_mean_loss_can_be_added_up_by_nccl(cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL adds up tensors on GPUs alone, and a run may be resumed just before it ends."""
    world = World(rank=0, size=2, device=GPU)

    def nccl(tensor: torch.Tensor) -> None:
        assert tensor.is_cuda, "No backend type associated with device type cpu"
        tensor.mul_(2)

    monkeypatch.setattr("torch.distributed.all_reduce", nccl)
    before = LossMean(GPU)
    before.add(torch.tensor(3.0, device=GPU))
    resumed = LossMean(GPU)
    resumed.restore(before.state(world))
    assert resumed.take("log", world) == 3.0
    assert resumed.state(world) == {"sums": {"log": 0.0, "evaluation": 3.0}, "counts": {"log": 0, "evaluation": 1}}
    assert float(world.mean(torch.tensor(5.0))) == 5.0  # whatever it is on


def test_several_processes_ask_each_other_only_now_and_then_whether_to_stop() -> None:
    asked: list[int] = []

    def run_of(size: int) -> _Run:
        def any_of_the_world(flag: bool) -> bool:
            asked.append(run.step)
            return flag

        run = object.__new__(_Run)
        run.world = SimpleNamespace(size=size, any=any_of_the_world)  # type: ignore[assignment]
        run.recipe = SimpleNamespace(steps=3 * _ASK_EVERY)  # type: ignore[assignment]
        return run

    for size in (1, 8):
        asked.clear()
        run = run_of(size)
        stopped = []
        for run.step in range(1, 3 * _ASK_EVERY + 1):
            if run._stops(requested=True):
                stopped.append(run.step)
        assert asked == stopped
        assert stopped == (list(range(1, 3 * _ASK_EVERY)) if size == 1 else [_ASK_EVERY, 2 * _ASK_EVERY])
