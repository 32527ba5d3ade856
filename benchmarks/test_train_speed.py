from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from train_speed import Workload, compare


@pytest.mark.slow
@pytest.mark.parametrize("against", ["timm", "synthetic"])
def test_both_sides_train_and_are_timed(against: str, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(6):
            noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.jpg")
    work = Workload(
        folder=tmp_path,
        network="test_efficientnet",
        batch_size=4,
        size=32,
        precision="float32",
        workers=1,
        timm_channels_last=True,
    )
    measured = compare(work, against=against, rounds=2, steps=1, warmup=1)
    assert {name: len(rates) for name, rates in measured.steps_per_second.items()} == {"penultimate": 2, against: 2}
    assert all(rate > 0 for rates in measured.steps_per_second.values() for rate in rates)
    assert all(0.1 < peak < 10 for peak in measured.peak_memory_gb.values())
