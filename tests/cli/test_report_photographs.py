"""``report --store`` shows photographs of test errors, from where they were embedded or from where they are now."""

from pathlib import Path

import pytest

from penultimate.cli.main import run

TINY = ("--weights", "random", "--workers", "1", "--no-compile", "--decoder", "pillow")


@pytest.mark.slow
def test_errors_are_shown_from_where_the_images_are(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted(path for path in photos.iterdir() if path.is_dir())
    for number, photo in enumerate(sorted(photos.rglob("*.jpg"))):  # labels that nothing tells
        photo.rename(folders[number % len(folders)] / f"{number}.jpg")
    store, trials = str(tmp_path / "f.zarr"), str(tmp_path / "trials")
    assert run(["extract", str(photos), "--store", store, "--model", "test_resnet", *TINY]) == 0
    assert run(["probe", store, "--trials", trials, "--l2", "1:10:2"]) == 0
    page = tmp_path / "report.html"
    asked = ["report", trials, "-o", str(page), "--store", store, "--resamples", "100"]
    assert run(asked) == 0
    assert page.read_text().count('<img src="data:image/webp') > 0
    moved = photos.rename(tmp_path / "moved")
    capsys.readouterr()
    assert run(asked) == 0
    assert "were not found as embedded, and are not shown" in capsys.readouterr().err
    assert '<img src="data:image/webp' not in page.read_text()
    assert run([*asked, "--images", str(moved)]) == 0
    assert page.read_text().count('<img src="data:image/webp') > 0
