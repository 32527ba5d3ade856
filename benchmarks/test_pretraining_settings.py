from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pretraining_settings import Experiment, part, report, run

from penultimate.engine.bench.timing.report import read_report
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Four classes, each of its own brightness."""
    for number, name in enumerate(("ant", "bee", "cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for image in range(15):
            noise = np.random.default_rng(image).integers(60 * number, 60 * number + 60, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "images" / name / f"{image:02d}.jpg")
    return load_images(str(tmp_path / "images"))


def test_a_part_holds_the_classes_asked_for_and_no_other_image(images: ImageSet) -> None:
    chosen = part(images, [2, 3], (5, 2, 3), name="half")
    assert chosen.class_names == ("cat", "dog")
    assert len(chosen) == 2 * (5 + 2 + 3)
    for row, name in enumerate(chosen.ids_N.tolist()):
        assert name.startswith(chosen.class_names[chosen.labels_N[row]])
        (whole,) = np.flatnonzero(images.ids_N == name)
        assert chosen.split_N[row] == images.split_N[whole]
        assert chosen.source.read(row) == images.source.read(int(whole))


@pytest.mark.slow
def test_both_settings_are_trained_probed_and_compared(images: ImageSet, tmp_path: Path) -> None:
    tiny = Experiment(network="test_resnet", steps=4, batch_size=4, seeds=1, pretrain=(5, 2, 3), probe=(5, 2, 3))
    found = run(images, tiny, tmp_path / "out")
    assert [row["label_smoothing"] for row in found["networks"]] == [0.0, 0.1]
    assert found["pretrained_on"] == ["ant", "bee"]
    plain, smoothed = (row["probe_top1"] for row in found["networks"])
    assert found["probe"]["over_seeds"]["difference"] == pytest.approx(smoothed - plain)
    assert 0 < found["probe"]["over_seeds"]["p_value"] <= 1
    made = report(images, tiny, tmp_path / "out")  # what was done is not done again
    made.write(tmp_path / "report.md")
    assert made.results[0]["networks"] == found["networks"]
    written = read_report(tmp_path / "report.md")["tables"]
    trained, probed = written["Label smoothing 0.1 less 0"]
    assert float(probed["difference over seeds, points"]) == pytest.approx(100 * (smoothed - plain), abs=0.005)
    assert trained.keys() == probed.keys() >= {"p (permutation)", "seed 0, points (p, McNemar)"}
    assert len(written["Networks"]) == 2
