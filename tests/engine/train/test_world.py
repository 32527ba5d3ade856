import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from penultimate.engine.backbones.architectures.networks import create_network
from penultimate.engine.train.world import World, local_batch_size, world_from_launcher
from penultimate.store.errors import InputError, UnavailableError

CPU = torch.device("cpu")
OPTIONS = [
    "--model=test_vit", "--init=random", "--size=32", "--steps=3", "--batch-size=4", "--learning-rate=0.05",
    "--weight-decay=1e-3", "--set=dropout=0", "--set=decoder=pillow", "--workers=1", "--no-retrain", "--json",
]  # fmt: skip


def _train(launcher: list[str], photos: Path, out: Path) -> dict[str, object]:
    command = [*launcher, "-m", "penultimate", "train", str(photos), f"--out={out}", *OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    return {name: row[name] for name in ("trial", "value")} | {"run": Path(row["run"]).name}


@pytest.mark.slow
def test_two_processes_learn_what_one_does_at_the_same_global_batch(photos: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    together = _train(torchrun, photos, tmp_path / "together")
    alone = _train([sys.executable], photos, tmp_path / "alone")
    assert together == alone
    run = str(alone["run"])
    one, two = (load_file(tmp_path / name / run / "model.safetensors") for name in ("alone", "together"))
    begun = create_network("test_vit", seed=0, num_classes=3).state_dict()
    for name, tensor in one.items():
        moved = (tensor - begun[name]).abs().max()
        # Three updates with Nesterov momentum add up three gradients; float32 sums in another order differ by 1e-7
        # of their terms, and a gradient of a wrong part of the batch would differ by half of the way moved.
        assert (tensor - two[name]).abs().max() <= 1e-3 * moved + 1e-8, name


def test_without_a_launcher_the_world_is_one() -> None:
    with world_from_launcher("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.gather(3) == [3]


def test_batch_norm_on_several_cpus_is_refused() -> None:
    with pytest.raises(UnavailableError, match="batch norm"):
        World(rank=0, size=2, device=CPU).wrap(create_network("test_resnet"))


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    assert local_batch_size(8, World(rank=0, size=4, device=CPU)) == 2
    with pytest.raises(InputError, match="batch size 6"):
        local_batch_size(6, World(rank=0, size=4, device=CPU))


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnavailableError, match="--device cpu"), world_from_launcher("cuda"):
        pass


@pytest.mark.gpu
def test_training_on_a_gpu_learns(photos: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    options = ["--device=cuda", "--set=decoder=dali", "--precision=bfloat16", "--model=test_resnet", "--init=random"]
    command = [sys.executable, "-m", "penultimate", "train", str(photos), f"--out={tmp_path}", *options]
    done = subprocess.run(
        [*command, "--size=32", "--steps=30", "--batch-size=4", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["value"] > 1 / 3  # chance
