from pathlib import Path

import numpy as np
import pytest
from growing_store import report
from PIL import Image


@pytest.mark.slow
def test_each_change_embeds_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    images, work = tmp_path / "images", tmp_path / "work"
    work.mkdir()
    rng = np.random.default_rng(0)
    for number in range(100):
        path = images / f"class{number % 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    lines = report(images, num_rows=4096, rounds=1, folder=work).splitlines()
    counts = {cells[1].strip(): cells[2:5] for line in lines if len(cells := line.split("|")) == 9}
    embedded = {name: int(cells[1]) for name, cells in counts.items() if cells[1].strip().isdecimal()}
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
    assert any(line.startswith("4,096 contents among as many rows: ") for line in lines)
    assert sum(line.startswith(("| embedded at once", "| every row elsewhere")) for line in lines) == 2
    assert list(work.iterdir()) == []
