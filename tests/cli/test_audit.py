import json
from pathlib import Path

import pytest

from penultimate.cli.main import run


def test_a_store_becomes_a_page_with_its_photographs(
    probe_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe", str(probe_store), "--trials", str(tmp_path / "trials"), "--l2", "0.1:10:3"]) == 0
    capsys.readouterr()
    asked = ["audit", str(probe_store), "--trials", str(tmp_path / "trials"), "--set", "folds=3"]
    assert run([*asked, "-o", str(tmp_path / "audit.html"), "--ratio", "0.9"]) == 0
    out, err = capsys.readouterr()
    assert "have a twin in train or val" in out
    assert "label" in out  # through a random network all images of a class may be twins, and no label be checked
    assert "were not found" not in err
    page = (tmp_path / "audit.html").read_text()
    assert "<title>Audit of photos</title>" in page
    assert "data:image/webp;base64," in page


def test_json_has_every_table_and_nothing_else_is_on_stdout(
    probe_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", str(probe_store), "--json", "--ratio", "0.9"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["summary"]["images"] == 24
    assert len(found["twins"]) == found["summary"]["twins"] > 0
    assert "no trials were given" in found["notes"][0]
    assert err.startswith("photos, test_vit")


def test_without_the_photographs_the_page_has_ids_alone_and_that_is_said(
    probe_store: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = photos.rename(tmp_path / "moved")
    asked = ["audit", str(probe_store), "-o", str(tmp_path / "audit.html"), "--ratio", "0.9"]
    assert run(asked) == 0
    assert "images were not found as embedded" in capsys.readouterr().err
    assert "<img" not in (tmp_path / "audit.html").read_text()
    assert run([*asked, "--images", str(moved)]) == 0
    assert "<img" in (tmp_path / "audit.html").read_text()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--dataset", "nothing"], "no complete features"),
        (["--ratio", "3"], "ratio"),
        (["--folds", "1"], "folds"),
        (["--search", "guess"], "exact"),
        (["--against", "photos"], "no other dataset"),
        (["--trials", "nowhere"], "no trial log"),
        (["-o", "no/such/folder/audit.html"], "there is no folder"),
        (["-o", "."], "it is a folder"),
        (["--device", "cuda"], "CUDA"),
        (["--set", "fold=3"], "did you mean folds"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    probe_store: Path, asked: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", str(probe_store), *asked]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
