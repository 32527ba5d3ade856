from pathlib import Path

import pytest
from trial_cases import trial_of

from penultimate.cli.main import run
from penultimate.store.trial_log import TrialLog


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
    assert {"figure6.png", "figure6.pdf", "figure6.csv"} <= {p.name for p in (tmp_path / "out_figures").iterdir()}
    out, err = capsys.readouterr()
    assert out == ""
    assert "out.html" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "nowhere/out.html"], "there is no folder"),
        (["--tsne", "digits"], "figure 4 needs --store"),
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
