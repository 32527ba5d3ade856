import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.train.learner.network import InitialModel, load_initial_model
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.checkpoint import load_checkpoint
from penultimate.engine.train.runs.lock import locked
from penultimate.engine.train.runs.resources import Resources, ResourceSettings
from penultimate.engine.train.runs.run import train_run
from penultimate.engine.train.runs.run_result import RunResult
from penultimate.engine.train.runs.trained_network import save_trained
from penultimate.store.errors import (
    InputError,
    RunInterruptedError,
    StoreBusyError,
    StoreError,
    UnavailableError,
)

CPU = torch.device("cpu")


def assert_same_weights(a: Path, b: Path) -> None:
    """Compare tensors bit for bit."""
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_run_learns_and_leaves_all_it_promises(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    gentle = recipe.replace(steps=12, learning_rate=0.01)  # at 0.05 rounding decides whether the loss falls
    result = train_run(images, initial, gentle, tmp_path / "run", resources)
    assert (result.status, result.steps) == ("finished", 12)
    assert [row["step"] for row in result.history] == [4, 8, 12]
    assert [row["epoch"] for row in result.history] == pytest.approx([4 / 3, 8 / 3, 4])
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert {"last.pt", "best.pt", "model.safetensors", "config.json", "result.json", "recipe.json", "log.jsonl"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "step"] == [2, 4, 6, 8, 10, 12]
    assert events[-1]["event"] == "finished"
    assert all(e["images_per_second"] > 0 for e in events if e["event"] == "step")


def test_a_run_that_has_ended_is_not_run_again(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    first = train_run(images, initial, recipe, tmp_path / "run", resources)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert train_run(images, initial, recipe, tmp_path / "run", resources) == first
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(
    images: ImageSet, initial: InitialModel, with_dropout: Recipe, resources: Resources, tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_run(images, initial, with_dropout.replace(seed=seed), tmp_path / name, resources)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")
    assert torch.equal(torch.random.get_rng_state(), before)  # dropout drew from the global generator


class Stop:
    """Requests a stop after an update, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, recipe: Recipe, row: Mapping[str, Any]) -> None:
        if row["event"] == "step" and row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_checkpoints_says_how_to_go_on_and_loses_nothing(
    images: ImageSet, initial: InitialModel, with_dropout: Recipe, resources: Resources, tmp_path: Path
) -> None:
    train_run(images, initial, with_dropout, tmp_path / "straight", resources)
    handler = signal.getsignal(signal.SIGINT)
    for step in (2, 6):
        with pytest.raises(RunInterruptedError, match=rf"stopped after {step} of 8 updates.*same command"):
            train_run(images, initial, with_dropout, tmp_path / "stopped", replace(resources, report=Stop(step)))
        assert load_checkpoint(tmp_path / "stopped" / "last.pt", with_dropout, CPU)["step"] == step
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = train_run(images, initial, with_dropout, tmp_path / "stopped", resources)
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")
    assert resumed.history == RunResult.read(tmp_path / "straight").history  # type: ignore[union-attr]


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from penultimate.engine.images.load import load_images
from penultimate.engine.train.learner.network import load_initial_model
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.resources import Resources, ResourceSettings
from penultimate.engine.train.runs.run import train_run
from penultimate.engine.train.world import World
photos, folder, recipe = sys.argv[1:]
recipe = Recipe.from_dict(json.loads(recipe))
initial = load_initial_model(recipe.network, init="random", weights="timm", seed=0)
world = World(rank=0, size=1, device=torch.device("cpu"))
def report(recipe, row):
    print(row["event"], row["step"], flush=True)
settings = ResourceSettings(log_every=1, checkpoint_every=2)
resources = Resources(world=world, settings=settings, report=report)
train_run(load_images(photos), initial, recipe, Path(folder), resources)
"""


def _process(photos: Path, folder: Path, recipe: Recipe) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(photos), str(folder), json.dumps(recipe.as_dict())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_sigkill_at_random_steps_and_resuming_gives_the_weights_of_an_uninterrupted_run(
    images: ImageSet, photos: Path, initial: InitialModel, with_dropout: Recipe, resources: Resources, tmp_path: Path
) -> None:
    recipe = with_dropout.replace(steps=11)
    train_run(images, initial, recipe, tmp_path / "straight", resources)
    rng = np.random.default_rng(5)
    for _ in range(2):
        killed_at = int(rng.integers(1, 8))
        process = _process(photos, tmp_path / "killed", recipe)
        assert process.stdout is not None
        heard = 0
        for line in process.stdout:
            heard += line.startswith("step")
            if heard >= killed_at:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() in (-signal.SIGKILL, 0)
    process = _process(photos, tmp_path / "killed", recipe)
    _, _ = process.communicate()
    assert process.returncode == 0
    assert_same_weights(tmp_path / "straight", tmp_path / "killed")
    events = [json.loads(line)["event"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert "resumed" in events


def test_a_checkpoint_of_another_recipe_is_refused_by_the_field_that_differs(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    with pytest.raises(RunInterruptedError):
        train_run(images, initial, recipe, tmp_path, replace(resources, report=Stop(2)))
    with pytest.raises(InputError, match=r"another recipe: learning_rate 0\.05 instead of 0\.01"):
        train_run(images, initial, recipe.replace(learning_rate=0.01), tmp_path, resources)


def test_a_damaged_checkpoint_is_one_clear_line(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        train_run(images, initial, recipe, tmp_path, resources)


def test_no_room_for_a_checkpoint_leaves_the_one_before_it(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    with pytest.raises(RunInterruptedError):
        train_run(images, initial, recipe, tmp_path, replace(resources, report=Stop(2)))
    before = (tmp_path / "last.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # what a full disk does to a write
    try:
        with pytest.raises(StoreError, match=r"could not be written.*make room and run again"):
            train_run(images, initial, recipe, tmp_path, resources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
    assert train_run(images, initial, recipe, tmp_path, resources).status == "finished"


def test_no_room_for_the_trained_network_leaves_the_checkpoint_it_can_be_had_from(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    train_run(images, initial, recipe, tmp_path / "straight", resources)
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "last.pt").write_bytes((tmp_path / "straight" / "last.pt").read_bytes())
    weights = load_file(tmp_path / "straight" / "model.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # what a full disk does to a write
    try:
        with pytest.raises(StoreError, match=r"model\.safetensors could not be written.*make room and run again"):
            save_trained(tmp_path / "stopped", weights, recipe, images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["last.pt"]
    train_run(images, initial, recipe, tmp_path / "stopped", resources)
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


def test_a_loss_that_is_not_finite_ends_the_run_early_and_is_recorded(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    result = train_run(images, initial, recipe.replace(steps=50, learning_rate=1e12), tmp_path, resources)
    assert result.status == "diverged"
    assert result.steps < 50
    assert RunResult.read(tmp_path) == result
    assert not (tmp_path / "model.safetensors").exists()


def test_two_processes_cannot_train_in_one_folder(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    with locked(tmp_path, alone=True), pytest.raises(StoreBusyError, match="another process is training"):
        train_run(images, initial, recipe, tmp_path, resources)


def test_outside_the_main_thread_nothing_is_caught(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    results: list[RunResult] = []
    thread = threading.Thread(
        target=lambda: results.append(train_run(images, initial, recipe.replace(steps=2), tmp_path, resources))
    )
    thread.start()
    thread.join()
    assert results[0].status == "finished"


def test_a_batch_larger_than_the_training_set_is_refused_before_anything_starts(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"batch size 13 is larger than the 12 training images.*--batch-size 12"):
        train_run(images, initial, recipe.replace(batch_size=13), tmp_path / "run", resources)
    assert not (tmp_path / "run").exists()


def test_a_class_absent_from_train_is_named(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    moved = images.split_N.copy()
    moved[(images.labels_N == 1) & (moved == "train")] = "val"
    with pytest.raises(InputError, match="train of photos has no image of class 'dog'"):
        train_run(replace(images, split_N=moved), initial, recipe, tmp_path / "run", resources)


@pytest.mark.slow
def test_an_image_size_the_network_refuses_is_refused_at_once(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    vit = load_initial_model("vit_tiny_patch16_224", init="random", weights="timm", seed=0)
    with pytest.raises(InputError, match="vit_tiny_patch16_224 refuses images of 32 x 32 pixels"):
        train_run(images, vit, recipe.replace(network="vit_tiny_patch16_224"), tmp_path / "run", resources)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory in /proc, which Linux has")
def test_memory_does_not_grow_with_the_updates(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    large = recipe.replace(
        steps=90, batch_size=12, eval_every=90, preprocess=replace(recipe.preprocess, height=128, width=128)
    )
    resident: list[int] = []

    def report(_: Recipe, row: Mapping[str, Any]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * resource.getpagesize())

    train_run(
        images,
        initial,
        large,
        tmp_path,
        replace(resources, settings=resources.settings.replace(log_every=30), report=report),
    )
    # Sixty updates later. Kept, their pixels alone would be 60 x 12 x 128 x 128 x 3 bytes: 35 MB.
    assert resident[2] - resident[0] < 15e6


def test_tensorboard_gets_every_scalar(
    images: ImageSet, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_run(
        images,
        initial,
        recipe,
        tmp_path,
        replace(resources, settings=resources.settings.replace(logs=("tensorboard",))),
    )
    written = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in written.Scalars("evaluation/val_top1")] == [4, 8]
    assert [event.step for event in written.Scalars("step/loss")] == [2, 4, 6, 8]


def test_tensorboard_that_is_not_installed_is_refused_and_names_its_extra(
    images: ImageSet,
    initial: InitialModel,
    recipe: Recipe,
    resources: Resources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    logged = replace(resources, settings=resources.settings.replace(logs=("tensorboard",)))
    with pytest.raises(UnavailableError, match=r"pip install 'penultimate\[tensorboard\]'"):
        train_run(images, initial, recipe, tmp_path, logged)


def test_a_logger_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="tensorboard"):
        ResourceSettings.of({"logs": ["tensorbord"]})


def test_images_left_out_are_in_the_result(
    photos: Path, initial: InitialModel, recipe: Recipe, resources: Resources, tmp_path: Path
) -> None:
    for name in ("cat/03.jpg", "owl/01.jpg"):
        (photos / name).write_bytes(b"\xff\xd8")
    result = train_run(load_images(str(photos)), initial, recipe.replace(batch_size=6), tmp_path / "run", resources)
    assert result.status == "finished"
    assert set(result.left_out) <= {"cat/03.jpg", "owl/01.jpg"}
