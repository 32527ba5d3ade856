"""The speed and precision benchmarks run on a few images, so that they cannot rot."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.processors import pretend

from penultimate.engine.bench.timing.report import read_report
from penultimate.engine.bench.timing.turns import TurnOptions
from penultimate.engine.runtime.capabilities import computes_natively

sys.path.append(str(Path(__file__).parent))
import extract_speed
import precision_probe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in range(2):
        for number in range(6):
            path = tmp_path / "photos" / str(label) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(100 * label, 100 * label + 100, (40, 50, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["penultimate float32 eager", "timm+DataLoader float32 batch 4"])
def test_a_contender_embeds_every_image_a_turn(folder: Path, tmp_path: Path, contender: str) -> None:
    sample = tmp_path / "sample"
    assert extract_speed.linked_sample(folder, 5, sample) == 5
    turns = TurnOptions(rounds=1)
    (laps,) = extract_speed.measure(sample, "test_resnet", [contender], turns, num_images=5, peers=None)
    assert [lap.items for lap in (laps.warm_up, *laps.rounds)] == [5, 5]


@pytest.mark.slow
@pytest.mark.capability
@pytest.mark.parametrize("lowered", [False, True], ids=["", "lowered"])
def test_precisions_are_compared_and_those_without_units_left_out(
    lowered: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if lowered:
        pretend(monkeypatch, "avx2")
    here = [p for p in precision_probe.PRECISIONS if computes_natively(p, torch.device("cpu"))]
    arguments = [str(folder), str(tmp_path / "report.md"), "--model", "test_resnet", "--weights", "random"]
    precision_probe.main([*arguments, "--strengths", "3", "--store", str(tmp_path / "store")])
    found = read_report(tmp_path / "report.md")
    features, probes, batches = found["tables"].values()
    assert [row["precision"] for row in features] == here[1:]
    assert [row["precision"].split(",")[0] for row in probes] == [here[0], *(p for p in here[1:] for _ in range(2))]
    assert all((row.get("p (McNemar)", "") == "") == (row["precision"] == "float32") for row in probes)
    assert [row["precision"] for row in batches] == [p for p in here for _ in precision_probe.BATCH_SIZES]
    left_out = [sentence.split(" is left out")[0] for sentence in found["findings"]]
    assert left_out == [p for p in precision_probe.PRECISIONS if p not in here]
    assert len(found["results"]) == len(features) + len(probes) + len(batches)
