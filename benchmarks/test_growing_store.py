from pathlib import Path

import numpy as np
import pytest
from growing_store import report
from PIL import Image

from penultimate.engine.bench.timing.turns import TurnOptions


@pytest.mark.slow
def test_each_change_embeds_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    images, work = tmp_path / "images", tmp_path / "work"
    work.mkdir()
    rng = np.random.default_rng(0)
    for number in range(100):
        path = images / f"class{number % 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    made = report(images, 4096, TurnOptions(rounds=1), work)
    (steps,) = made.tables.values()
    embedded = {row["step"]: int(row["embedded"]) for row in steps}
    assert embedded == {
        "first extraction": 90,
        "the same again": 0,
        "10 images more": 10,
        "the same again, without the digest cache": 0,
        "another split seed": 0,
        "one image in 20 in another class": 0,
        "every class renamed, the folder moved": 0,
        "one image in 10 removed": 0,
    }
    assert made.findings[0].startswith("4,096 contents are found among as many rows in ")
    assert [each.items for each in made.measurements] == [2048] * 4
    assert list(work.iterdir()) == []
