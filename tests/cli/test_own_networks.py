"""Networks of the user's in every verb that loads a backbone, as a new user runs them: from a folder of his own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penultimate.cli.main import run
from penultimate.store.feature_store import FeatureStore

FORWARD = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 16, 8, stride=4)

    def forward(self, images):
        return self.layer(images).{activation}().mean(dim=(2, 3))

def net():
    return Mine().eval(), {{"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}}

def batch():
    class Centred(Mine):
        def forward(self, images):
            found = super().forward(images)
            return found - found.mean(dim=0)
    return Centred().eval(), {{"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}}
"""
MODEL = "nets_of_mine:net"
QUICK = ("--decoder", "pillow", "--workers", "1")


class Folder:
    """A fresh folder in which each command is a process of its own, as the installed script starts it."""

    def __init__(self, folder: Path, photos: Path) -> None:
        self.folder, self.photos = folder, str(photos)
        self.write("relu")

    def write(self, activation: str) -> None:
        (self.folder / "nets_of_mine.py").write_text(FORWARD.format(activation=activation))

    def ended(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Like the console script, and unlike `python -m`, this does not put the current folder on the path.
        code = "import sys; sys.path = [p for p in sys.path if p]; from penultimate.cli.main import main; main()"
        command = [sys.executable, "-c", code, *arguments]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # an edit within a second changes no .pyc
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def done(self, *arguments: str) -> str:
        ended = self.ended(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def rows(self, *arguments: str) -> Any:
        return json.loads(self.done(*arguments, "--json"))

    def extracted(self, *more: str, model: str = MODEL) -> Any:
        arguments = ("extract", self.photos, "--store", "f.zarr", "--model", model, *QUICK, *more)
        (row,) = self.rows(*arguments)
        return row


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Folder:
    return Folder(tmp_path, photos)


@pytest.mark.slow
def test_rows_are_reused_until_what_is_computed_is_edited_and_again_when_it_is_undone(folder: Folder) -> None:
    first = folder.extracted()
    assert (first["rows"], first["embedded"], first["dim"]) == (24, 24, 16)
    assert folder.extracted()["embedded"] == 0
    folder.write("tanh")
    said = folder.ended("extract", folder.photos, "--store", "f.zarr", "--model", MODEL, *QUICK).stderr
    assert "of code that computed something else; they are not used" in said
    edited = folder.extracted()
    assert edited["rows"] == 24
    assert edited["embedded"] == 0
    assert edited["digest"] != first["digest"]
    folder.write("relu")
    assert folder.extracted()["embedded"] == 0
    keys = FeatureStore(folder.folder / "f.zarr").keys()
    assert len(keys) == 2
    assert len({key.weights.partition("-")[0] for key in keys}) == 1


@pytest.mark.slow
def test_a_head_predicts_through_the_network_it_was_fitted_on_and_no_other(folder: Folder) -> None:
    folder.extracted()
    folder.done("probe", "f.zarr", "--trials", "trials", "--l2", "1e-2:1:2")
    (head,) = (folder.folder / "trials" / "heads").glob("*.safetensors")
    predicted = folder.rows("predict", folder.photos, "--head", str(head))
    assert len(predicted) == 24
    folder.write("tanh")
    refused = folder.ended("predict", folder.photos, "--head", str(head))
    assert refused.returncode == 2
    assert "its weights are the same, but it computes other features now" in refused.stderr


@pytest.mark.slow
def test_every_other_verb_takes_it_or_refuses_it_in_one_line(folder: Folder) -> None:
    (described,) = folder.rows("models", MODEL)
    assert (described["input_size"], described["feature_dim"], described["parameters"]) == (32, 16, 16 * (3 * 64 + 1))
    few = ("--images", "8", "--rounds", "1")
    (measured,) = folder.rows("bench", "extract", folder.photos, "--model", MODEL, *few, *QUICK)["results"]
    assert measured["model"] == MODEL
    (parity,) = folder.rows("parity", folder.photos, "--model", MODEL, "--precision", "float32", *QUICK)
    assert parity["passed"]
    (folder.folder / "val" / "n01440764").mkdir(parents=True)
    shutil.copy(Path(folder.photos) / "cat" / "00.jpg", folder.folder / "val" / "n01440764" / "a.JPEG")
    for arguments, words in (
        (("train", folder.photos, "-m", MODEL, "--out", "runs"), "is a network of your own, and those are not trained"),
        (("bench", "train", folder.photos, "-m", MODEL), "is a network of your own, and those are not trained"),
        (
            ("extract", folder.photos, "--store", "f.zarr", "-m", "nets_of_mine:batch"),
            "depend on the rest of the batch",
        ),
        (("extract", folder.photos, "--store", "f.zarr", "-m", "nets_of_mine:nett"), "did you mean net"),
        (("extract", folder.photos, "--store", "f.zarr", "-m", MODEL, "--weights", "random"), "brings its own weights"),
        (("imagenet-eval", "val", "--model", MODEL), "a classifier of 0 classes"),
    ):
        refused = folder.ended(*arguments)
        assert refused.returncode == 2, (arguments, refused.stderr)
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_study_takes_it_beside_networks_of_timm_and_blocks_its_training(folder: Folder) -> None:
    study = {
        "datasets": {"photos": folder.photos},
        "backbones": [{"model": MODEL, "name": "mine"}, {"model": "test_resnet", "weights": "random"}],
        "extract": {"decoder": "pillow"},
        "probe": {"l2": "1e-2:1:2"},
        "finetune": {"steps": 1, "only": MODEL},
    }
    (folder.folder / "s.yaml").write_text(json.dumps(study))
    planned = folder.ended("study", "run", "s.yaml", "--dry-run", "--no-estimate")
    assert "is a network of your own, and those are not trained" in planned.stdout + planned.stderr
    folder.ended("study", "run", "s.yaml")
    found = FeatureStore(folder.folder / "s" / "features.zarr").keys()
    assert sorted(key.backbone for key in found) == ["mine", "test_resnet.random0"]


@pytest.mark.slow
def test_workers_of_a_cluster_import_it_from_the_folder_of_the_command(folder: Folder) -> None:
    pytest.importorskip("ray")
    here = folder.extracted()
    (row,) = folder.rows(
        "extract",
        folder.photos,
        "--store",
        "g.zarr",
        "--model",
        MODEL,
        *QUICK,
        "--cluster",
        "local",
        "--task-cpus",
        "1",
    )
    assert (row["rows"], row["digest"]) == (24, here["digest"])


@pytest.mark.slow
def test_the_template_works_as_it_stands_in_a_new_folder(folder: Folder) -> None:
    pytest.importorskip("transformers")
    (folder.folder / "my_networks.py").write_text(folder.done("models", "--template"))
    for function, dim in (("resnet18", 512), ("swin_stages", 192), ("dinov2", 192)):
        assert folder.extracted(model=f"my_networks:{function}")["dim"] == dim
    both = ("--readout", "penultimate", "--readout", "patch-mean")
    rows = folder.rows("extract", folder.photos, "--store", "f.zarr", "-m", "my_networks:dinov2", *both, *QUICK)
    assert [(row["dim"], row["embedded"]) for row in rows] == [(192, 0), (192, 24)]


def test_the_template_is_printed_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--template"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith('"""Networks of your own for penultimate.')
    compile(printed, "my_networks.py", "exec")
