"""The benchmark of the host runs on a few images, in one process and in two, so that it cannot rot."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nvidia.dali")

import host_feed

from penultimate.engine.runtime.partition import WHOLE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    return tmp_path


@pytest.mark.parametrize("resize", ["whole", "crop"])
def test_every_stage_does_every_image(folder: Path, resize: str) -> None:
    work = host_feed.Work(folder=folder, workers=2, batch_size=4, resize=resize, feature_dim=3)
    bench = host_feed.Bench(work, WHOLE)
    for stage in host_feed.STAGES:
        assert bench.run(stage) == 10
    assert bench.decoder.counts.pillow == 0


def test_the_decoder_does_nothing_within_the_context_alone(folder: Path) -> None:
    work = host_feed.Work(folder=folder, workers=1, batch_size=16)
    bench = host_feed.Bench(work, WHOLE)
    with host_feed.doing_nothing():
        (batch,) = bench.decoder.batches(bench.images, np.arange(10), [work.view], batch_size=16)
    assert batch.views[0].shape == (10, 8, 8, 3)
    assert not np.asarray(batch.views[0]).any()
    again = host_feed.Bench(work, WHOLE)
    (batch,) = again.decoder.batches(again.images, np.arange(10), [work.view], batch_size=16)
    assert np.asarray(batch.views[0]).any()


@pytest.mark.slow
def test_two_processes_divide_the_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "report.md"
    host_feed.main([str(folder), "--layouts", "2x1", "--rounds", "1", "--batch-size", "4", "--out", str(out)])
    found = json.loads(out.with_suffix(".json").read_text())
    assert [each["name"] for each in found["measurements"]] == list(host_feed.STAGES)
    assert {each["items"] for each in found["measurements"]} == {10}
    assert len(found["tables"]["Images per second of a core"]) == len(host_feed.STAGES)
    assert "| read |" in capsys.readouterr().out
