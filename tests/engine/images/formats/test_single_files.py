"""Images can be named one by one, by any number of files, folders, lists and globs, without labels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write ``a.jpg`` to ``d.jpg`` with their names in them, a folder of two more, a list, a note and a hidden file."""
    (tmp_path / "more").mkdir()
    for path in ("a.jpg", "b.jpg", "c.jpg", "d.png", "more/e.jpg", "more/f.jpg"):
        (tmp_path / path).write_bytes(path.encode())
    (tmp_path / "list.txt").write_text("c.jpg\nmore/e.jpg\n")
    (tmp_path / "table.csv").write_text("image,text\nd.png,x\n")
    (tmp_path / "README.txt").write_text("These are photographs.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("specs", "ids"),
    [
        (["a.jpg"], ["a.jpg"]),
        (["a.jpg", "./b.jpg", "a.jpg"], ["a.jpg", "b.jpg"]),
        (["[ab].jpg"], ["a.jpg", "b.jpg"]),
        (["a.jpg", "more"], ["a.jpg", "more/e.jpg", "more/f.jpg"]),
        (["a.jpg", "list.txt", "table.csv"], ["a.jpg", "c.jpg", "d.png", "more/e.jpg"]),
        (["*.jpg", "README.txt", "{d,a}.*"], ["a.jpg", "b.jpg", "c.jpg", "d.png"]),
    ],
)
def test_any_number_of_names_is_one_set(here: Path, specs: list[str], ids: list[str]) -> None:
    images = load_images(specs, labels=False)
    assert images.ids_N.tolist() == ids
    assert [images.source.read(row) for row in range(len(ids))] == [id_.encode() for id_ in ids]
    assert set(images.labels_N.tolist()) == {-1}
    assert images.provenance["left_out"] == ({".txt": 1} if "README.txt" in specs else {})


def test_an_image_without_a_suffix_is_one(here: Path, encode: Callable[..., bytes]) -> None:
    from PIL import Image

    Path("scan").write_bytes(encode(Image.new("L", (2, 2)), "PNG"))
    assert load_images("scan", labels=False).ids_N.tolist() == ["scan"]


def test_a_list_alone_is_a_manifest_with_its_own_ids(here: Path) -> None:
    assert load_images(["list.txt"], labels=False).ids_N.tolist() == ["c.jpg", "more/e.jpg"]


@pytest.mark.parametrize(
    ("specs", "labels", "message"),
    [
        (["a.jpg"], True, r"nothing says what 'a\.jpg' should show.*--no-labels"),
        (["a.jpg", "b.jpg"], True, r"nothing says what 2 names from 'a\.jpg' to 'b\.jpg'"),
        (["more", "other"], True, r"name the folder that holds them, '\.', to have them as classes"),
        (["*.jpeg"], False, r"no file '\*\.jpeg'"),
        (["a.jpg", "nowhere.jpg"], False, "no file or folder 'nowhere.jpg'"),
        (["README.txt", "table.csv"], True, "nothing says"),
        (["a.jpg", ""], False, "no images named"),
        (["a.jpg", "s3://bucket/x.tar"], False, "name it alone"),
    ],
)
def test_what_cannot_be_used_is_explained(here: Path, specs: list[str], labels: bool, message: str) -> None:
    Path("other").mkdir()
    with pytest.raises(InputError, match=message):
        load_images(specs, labels=labels)


def test_options_that_do_not_apply_are_refused_rather_than_ignored(here: Path) -> None:
    with pytest.raises(InputError, match="--set reader=NAME says how to read a folder"):
        load_images("a.jpg", labels=False, reader="images")
    with pytest.raises(InputError, match="--set splits=false says how to read a folder"):
        load_images("a.jpg", labels=False, splits=False)
    for name in ("cat", "dog"):
        Path("set", name).mkdir(parents=True)
        Path("set", name, "1.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="--multi-label goes with tables, tars, Parquet files and arrays"):
        load_images("set", multi_label=True)
    with pytest.raises(InputError, match="--set path_column=NAME goes with tables"):
        load_images("set", path_column="where")
