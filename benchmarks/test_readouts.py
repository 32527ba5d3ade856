"""The benchmarks of readouts run on a few images, so that they cannot rot."""

import sys
from pathlib import Path

import pytest

from penultimate.engine.bench.timing.report import read_report

sys.path.append(str(Path(__file__).parent))
import readout_cost
import readout_depth


@pytest.mark.slow
def test_many_readouts_are_timed_beside_one(photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "cost.md"
    sizes = ["--images", "6", "--rounds", "2", "--batch-size", "4"]
    readout_cost.main([str(photos), str(report), "--model", "test_vit", *sizes])
    found = read_report(report)
    rows = [(each["group"].split()[0], each["name"], each["items"]) for each in found["measurements"]]
    assert rows == [(group, name, 6) for group in ("Passes", "Extraction") for name in ("1 readout", "9 readouts")]
    assert report.read_text().count("9 readouts take ") == 2


@pytest.mark.slow
def test_the_report_has_a_row_a_readout_and_the_figure_beside_it(photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "depth.md"
    network = ["--model", "test_resnet", "--weights", "random", "--l2", "1e-2:1e2:3", "--per-class", "4"]
    readout_depth.main([str(photos), str(report), *network, "--work", str(tmp_path / "work")])
    found = read_report(report)
    readouts = [row["readout"] for row in found["tables"]["Accuracy by depth"]]
    assert readouts == [*(f"stage:{index}" for index in range(5)), "penultimate"]
    assert [(row["results"], row["there already"]) for row in found["tables"]["Time"]] == [
        ("6", "0"), ("6", "0"), ("1", "0"),
    ]  # fmt: skip
    assert "val chooses" in found["findings"][0]
    assert found["figures"] == {"accuracy by depth": "depth_figure.png"}
    assert (tmp_path / "depth_figure.png").exists()
    assert len((tmp_path / "depth_figure.csv").read_text().splitlines()) == 7
