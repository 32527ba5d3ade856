from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.small_disks import enlarge, small_disk
from support.store_cases import small_job
from support.trial_cases import trial_of

from penultimate.cli.main import run
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.contents import content_of
from penultimate.store.format.layout import variable_width
from penultimate.store.plan import Plan
from penultimate.store.trials.trial_log import TrialLog


@pytest.fixture
def log(tmp_path: Path) -> Path:
    trials = TrialLog.create(tmp_path / "trials")
    for backbone, wrong in (("a", 10), ("b", 20)):
        trials.append(trial_of(backbone=backbone, wrong=range(wrong)))
    return tmp_path / "trials"


def test_a_log_becomes_a_page_with_its_figures_beside(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(log), "-o", str(tmp_path / "out.html"), "--title", "Digits", "--resamples", "100"]) == 0
    assert "<title>Digits</title>" in (tmp_path / "out.html").read_text()
    written = {path.name for path in (tmp_path / "out_figures").iterdir()}
    assert {f"forest_digits_probe_top1.{ending}" for ending in ("png", "pdf", "csv")} <= written
    out, err = capsys.readouterr()
    assert out == ""
    assert "out.html" in err


def test_a_full_disk_is_one_line_and_leaves_the_page_and_figures_of_before(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        page, figures = disk / "out.html", disk / "out_figures"
        figures.mkdir()
        before = {page: b"page", figures / "forest_digits_probe_top1.png": b"figure"}
        for path, content in before.items():
            path.write_bytes(content)
        (disk / "ballast").write_bytes(bytes(36_000))
        asked = ["report", str(log), "-o", str(page), "--resamples", "100"]
        assert run(asked) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "No space left on device: " in line
        assert str(figures) in line
        assert line.endswith("run the same command again once that is mended")
        assert {path: path.read_bytes() for path in before} == before
        enlarge(disk, "4m")
        assert run(asked) == 0
        assert page.read_text().startswith("<!DOCTYPE html>")
        assert (figures / "forest_digits_probe_top1.png").read_bytes().startswith(b"\x89PNG")


def test_a_published_table_becomes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "published.csv"
    rows = [f"net{m},{70 + m},{60 + 2 * m},{80 + m},{70 + 1.5 * m}" for m in range(6)]
    table.write_text("\n".join(["model,imagenet,cars,pets,mean", *rows]))
    asked = ["--dataset", "cars", "--dataset", "pets", "--resamples", "100", "-o", str(tmp_path / "out.html")]
    assert run(["report", "--table", str(table), *asked]) == 0
    text = (tmp_path / "out.html").read_text()
    assert "over 2 datasets (published)" in text
    assert ">net5<" in text
    assert "figure1" in text
    capsys.readouterr()
    assert run(["report", str(tmp_path), "--table", str(table)]) == 2
    assert "either TRIALS" in capsys.readouterr().err
    assert run(["report"]) == 2


@pytest.fixture
def store(tmp_path: Path) -> Path:
    opened = FeatureStore.create(tmp_path / "store.zarr")
    rng = np.random.default_rng(0)
    for backbone in ("tiny", "other"):
        plan = Plan(
            dataset="insects",
            embedding=replace(small_job().embedding, backbone=backbone, weights=backbone),
            ids_M=variable_width([f"{sample}.png" for sample in range(120)]),
            labels_M=np.arange(120) % 2,
            split_M=variable_width(["test" if sample % 3 else "train" for sample in range(120)]),
            class_names=("ant", "bee"),
            metric="top1",
            feature_dim=4,
            shard_rows=64,
        )
        with opened.writer(plan, provenance={}) as writer:
            contents_M3 = np.array([content_of(bytes([sample])) for sample in range(120)], np.uint64)
            assert writer.offer(np.arange(120), contents_M3).all()
            writer.append(np.arange(120), rng.normal(size=(120, 4)).astype(np.float32))
    return tmp_path / "store.zarr"


def test_figure_4_is_drawn_from_the_test_images_in_a_store(log: Path, store: Path, tmp_path: Path) -> None:
    asked = ["--store", str(store), "--tsne", "insects", "--tsne-backbone", "tiny", "--tsne-backbone", "other"]
    assert run(["report", str(log), "-o", str(tmp_path / "out.html"), "--resamples", "100", *asked]) == 0
    numbers = pd.read_csv(tmp_path / "out_figures" / "figure4.csv")
    assert numbers.groupby("space").size().to_dict() == {"tiny": 80, "other": 80}
    assert all(int(name.removesuffix(".png")) % 3 for name in numbers["id"])
    assert "Feature spaces of tiny and other" in (tmp_path / "out.html").read_text()


def test_a_backbone_that_is_not_in_the_store_is_refused_with_the_nearest(
    log: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--store", str(store), "--tsne", "insects", "--tsne-backbone", "tiny", "--tsne-backbone", "othr"]
    assert run(["report", str(log), "-o", str(tmp_path / "out.html"), *asked]) == 2
    assert "did you mean other?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "nowhere/out.html"], "there is no folder"),
        (["--tsne", "digits"], "figure 4 needs --store"),
        (["--images", "photos"], "need --store"),
        (["--store", "s", "--tsne", "digits", "--tsne-backbone", "a"], "--tsne-backbone twice"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["report", str(log), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
