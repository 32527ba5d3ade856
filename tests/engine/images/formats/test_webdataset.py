import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.store.errors import InputError, VanishedImageError


def write_tar(path: Path, members: dict[str, bytes], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]  # its overloads know no **
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pets(path: Path, first: int = 0, count: int = 12) -> Path:
    """Make samples whose 'images' are texts that tell them apart; labels cycle through three classes."""
    members = {}
    for number in range(first, first + count):
        members[f"{number:05d}.jpg"] = f"image {number}".encode() * (1 + number % 5)
        members[f"{number:05d}.cls"] = b"%d\n" % (number % 3 * 5)
    return write_tar(path, members)


def contents(images: ImageSet) -> dict[str, bytes]:
    found = {str(id_): images.source.read(index) for index, id_ in enumerate(images.ids_N)}
    return {id_: content for id_, content in found.items() if isinstance(content, bytes)}


def test_every_sample_of_every_tar_comes_with_its_own_bytes_and_label(tmp_path: Path) -> None:
    for shard in range(3):
        pets(tmp_path / f"pets-{shard:03d}.tar", first=12 * shard)
    images = load_images(str(tmp_path))
    assert images.ids_N.tolist() == [f"pets-{n // 12:03d}/{n:05d}" for n in range(36)]
    assert contents(images) == {f"pets-{n // 12:03d}/{n:05d}": f"image {n}".encode() * (1 + n % 5) for n in range(36)}
    assert images.class_names == ("0", "5", "10")
    assert images.labels_N.tolist() == [n % 3 for n in range(36)]
    assert Counter(images.split_N.tolist()) == {"train": 24, "val": 6, "test": 6}


def test_a_glob_braces_and_the_folder_name_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in range(8, 11):
        pets(tmp_path / f"pets-{shard:04d}.tar", first=12 * shard)
    monkeypatch.chdir(tmp_path)
    sets = [load_images(spec) for spec in (".", "pets-*.tar", "pets-{0008..0010}.tar", str(tmp_path / "pets-00??.tar"))]
    assert len({images.digest for images in sets}) == 1
    assert {images.name for images in sets[1:]} == {"pets"}
    assert len(load_images("pets-{0008,0010}.tar")) == 24
    assert load_images("pets-0009.tar").name == "pets-0009"
    with pytest.raises(InputError, match=r"no file 'pets-0011\.tar', one of those that"):
        load_images("pets-{0008..0011}.tar")
    with pytest.raises(InputError, match="no file 'dogs"):
        load_images("dogs-*.tar")


def test_splits_are_told_by_the_tars_names(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        pets(tmp_path / f"wds-{split}-0000.tar")
    images = load_images(str(tmp_path))
    assert Counter(images.split_N.tolist()) == {"train": 12, "val": 12, "test": 12}
    assert all(("train" in id_) == (split == "train") for id_, split in zip(images.ids_N, images.split_N, strict=True))
    pets(tmp_path / "more-0000.tar")
    with pytest.raises(InputError, match="'more-0000' does not tell its split"):
        load_images(str(tmp_path))


def test_labels_may_stand_in_json_and_may_be_texts(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(6):
        document = {"breed": ["pug", "tabby"][number % 2], "width": 3}
        members |= {f"{number}.json": json.dumps(document).encode(), f"{number}.rgb.PNG": b"x%d" % number}
    path = write_tar(tmp_path / "a.tar", members)
    images = load_images(str(path), label_column="breed")
    assert images.class_names == ("pug", "tabby")
    assert images.labels_N.tolist() == [0, 1] * 3
    with pytest.raises(InputError, match=r"'a/0' has no label: expected a \.cls, or a \.json with 'label'"):
        load_images(str(path))
    assert load_images(str(path), labels=False).labels_N.tolist() == [-1] * 6


def test_names_are_never_paths_and_what_is_no_sample_is_left_out(tmp_path: Path) -> None:
    members = {"../../outside.jpg": b"up", "/etc/passwd.jpg": b"root", "./here/a.b.jpg": b"dots", "classes.txt": b"cat"}
    path = write_tar(
        tmp_path / "in" / "odd.tar", members | {"._a.jpg": b"mac", "README": b"", "long/" * 40 + "n.jpg": b"n"}
    )
    before = sorted(tmp_path.rglob("*"))
    images = load_images(str(path), labels=False)
    assert contents(images) == {
        "odd/../../outside": b"up",
        "odd//etc/passwd": b"root",
        "odd/here/a": b"dots",
        f"odd/{'long/' * 40}n": b"n",
    }
    assert images.provenance["keys_without_image"] == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"1", "a.png": b"2"}, "several images for 'a': a.jpg, a.png"),
        ({"a.cls": b"1"}, "no images in 1 tars"),
        ({"a.jpg": b"1", "a.json": b"{"}, "'a.json' in .* holds no label"),
        ({"a.jpg": b"1", "a.json": b"[1]"}, "'a.json' in .* holds no label"),
        ({"a.jpg": b"1", "a.cls": b"\xff"}, "'a.cls' in .* holds no label"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(str(write_tar(tmp_path / "a.tar", members)))


def test_a_member_that_comes_twice_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(InputError, match=r"has a\.jpg twice"):
        load_images(str(tmp_path / "a.tar"))


def test_a_damaged_cut_off_or_compressed_tar_is_named_not_shortened(tmp_path: Path) -> None:
    whole = pets(tmp_path / "a.tar").read_bytes()
    header_of_6 = whole.index(b"00006.jpg")
    for damaged, message in (
        (
            whole[:header_of_6] + b"\1" * 512 + whole[header_of_6 + 512 :],
            f"at byte {header_of_6} there is no tar header",
        ),
        (whole[:header_of_6], "it was cut off"),
        (whole[: header_of_6 + 100], "it was cut off"),
        (whole[: header_of_6 + 600], "unexpected end of data"),
        (b"", "empty file"),
        (b"not a tar" * 100, "cannot read the tar"),
    ):
        (tmp_path / "a.tar").write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            load_images(str(tmp_path / "a.tar"))
    write_tar(tmp_path / "z.tar", {"a.jpg": b""}).rename(tmp_path / "plain")
    os.system(f"gzip -c {tmp_path}/plain > {tmp_path}/z.tar")
    with pytest.raises(InputError, match="are not compressed"):
        load_images(str(tmp_path / "z.tar"))


def test_a_tar_that_is_replaced_during_the_run_stops_it(tmp_path: Path) -> None:
    images = load_images(str(pets(tmp_path / "a.tar")))
    pets(tmp_path / "a.tar", first=100)
    with pytest.raises(VanishedImageError, match=r"a\.tar was changed"):
        images.source.read(3)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(VanishedImageError, match=r"a\.tar was there when it was listed and cannot be read now"):
        images.source.read(3)


def test_an_archive_beside_class_folders_does_not_make_them_tars(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"")
    pets(tmp_path / "download.tar")
    assert len(load_images(str(tmp_path))) == 6


def test_tars_may_have_several_labels(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number, labels in enumerate([["cat", "dog"], ["cat"], [], ["eel"], ["dog"], ["eel", "cat"]]):
        members |= {f"{number}.jpg": b"%d" % number, f"{number}.json": json.dumps({"label": labels}).encode()}
    path = write_tar(tmp_path / "a.tar", members)
    images = load_images(str(path), multi_label=True)
    assert images.class_names == ("cat", "dog", "eel")
    assert images.labels_N.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert images.metric == "map11"
    assert load_images(str(path)).digest == images.digest  # lists say it themselves
    mixed = members | {"5.json": json.dumps({"label": "eel|cat"}).encode()}
    path = write_tar(tmp_path / "mixed.tar", mixed)
    with pytest.raises(InputError, match=r"lists, and that of 'mixed/5' is none; .*--multi-label"):
        load_images(str(path))
    assert load_images(str(path), multi_label=True).labels_N.tolist() == images.labels_N.tolist()
    texts = {f"{n}.{kind}": b"x%d" % n if kind == "jpg" else b"cat|dog" for n in range(6) for kind in ("jpg", "cls")}
    assert load_images(str(write_tar(tmp_path / "b.tar", texts)), multi_label=True).class_names == ("cat", "dog")


def test_a_clip_benchmark_export_has_its_splits_and_class_names(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 12)):
        members: dict[str, bytes] = {}
        for number in range(first, first + 12):
            members |= {f"s{number}.webp": b"%d" % number, f"s{number}.cls": b"%d" % (number % 3)}
        write_tar(tmp_path / split / "0.tar", members)
        (tmp_path / split / "nshards.txt").write_text("1")
    (tmp_path / "classnames.txt").write_text("crane\nmaillot\ncrane\n")
    images = load_images(str(tmp_path))
    assert images.class_names == ("crane (0)", "maillot", "crane (2)")
    assert Counter(images.split_N.tolist()) == {"train": 9, "val": 3, "test": 12}
    assert images.provenance["left_out"] == {".txt": 3}
    (tmp_path / "classnames.txt").write_text("crane\n")
    with pytest.raises(InputError, match=r"label '1' is no number below 1, the lines of classnames\.txt"):
        load_images(str(tmp_path))


def test_tars_of_test_without_labels_are_kept_unlabelled(tmp_path: Path) -> None:
    pets(tmp_path / "train-0.tar")
    write_tar(tmp_path / "test-0.tar", {f"{number}.jpg": b"t%d" % number for number in range(4)})
    images = load_images(str(tmp_path))
    assert set(images.labels_N[images.split_N == "test"].tolist()) == {-1}
    assert Counter(images.split_N.tolist()) == {"train": 9, "val": 3, "test": 4}


def test_an_img2dataset_download_is_read_by_its_tars_in_every_order(tmp_path: Path) -> None:
    for shard in range(2):
        pets(tmp_path / f"0000{shard}.tar", first=12 * shard)
        parquet.write_table(pa.table({"url": ["u"], "key": ["k"]}), tmp_path / f"0000{shard}.parquet")
        (tmp_path / f"0000{shard}_stats.json").write_text("{}")
    images = load_images(str(tmp_path))
    assert len(images) == 24
    assert images.provenance["left_out"] == {".json": 2, "parquet": 2}


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz"])
def test_a_compressed_tar_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    for spec in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=r"compressed tar.*gunzip"):
            load_images(str(spec))


def test_several_tars_named_by_a_shell_are_the_set_of_the_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(pets(Path(f"pets-{number}.tar"), first=12 * number)) for number in range(3)]
    assert load_images(names).digest == load_images("pets-*.tar").digest


def test_a_test_split_without_any_of_several_labels_is_not_scored_as_images_of_no_class(tmp_path: Path) -> None:
    labels = [["cat"], ["dog"], ["cat", "dog"]] * 2
    train = {f"{n}.json": json.dumps({"label": cell}).encode() for n, cell in enumerate(labels)}
    write_tar(tmp_path / "train.tar", train | {f"{n}.jpg": b"%d" % n for n in range(6)})
    write_tar(tmp_path / "test.tar", {f"{n}.jpg": b"test%d" % n for n in range(3)})
    with pytest.raises(InputError, match="no image of test shows any class"):
        load_images(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes of system calls as Linux does")
@pytest.mark.parametrize("size", [3_000, 12_000, 60_000])
def test_a_tar_is_read_once_in_all(tmp_path: Path, size: int) -> None:
    members = {f"{number:03d}.jpg": os.urandom(size) for number in range(200)}
    path = write_tar(tmp_path / "a.tar", members | {f"{number:03d}.cls": b"1" for number in range(200)})

    def bytes_read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("rchar")))

    contents(load_images(path))  # what is imported late is not read below
    before = bytes_read()
    assert contents(load_images(path)) == {f"a/{name[:3]}": content for name, content in members.items()}
    assert bytes_read() - before <= 1.02 * path.stat().st_size
