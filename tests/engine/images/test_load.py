import pickle
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from penultimate.engine.images.load import DATASETS, load_images
from penultimate.store.errors import InputError, UnknownNameError

CLASSES = ["airplane", "automobile", "bird"]


def caltech_like(root: Path, num_classes: int = 102, images_a_class: int = 31) -> Path:
    for number in range(num_classes):
        folder = root / "101_ObjectCategories" / f"class_{number:03d}"
        folder.mkdir(parents=True)
        for image in range(images_a_class + number % 3):
            (folder / f"image_{image:04d}.jpg").write_bytes(b"")
    return root


def python2_batch(rows: NDArray[np.uint8], labels: list[int]) -> bytes:
    """Write, opcode by opcode, the pickle that Python 2 and NumPy 1 wrote, as the published files are."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text

    shape = b"".join(b"J" + struct.pack("<i", size) for size in rows.shape)
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|")
    dtype += b"NNN" + 2 * (b"J" + struct.pack("<i", -1)) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + b"\x86" + dtype + b"\x89" + string(rows.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}" + string(b"data") + array + b"s" + string(b"labels") + numbers + b"s."


def cifar_like(root: Path) -> tuple[Path, NDArray[np.uint8]]:
    """Write torchvision's layout with 5 x 12 train and 6 test images of three classes; return its training pixels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    images_NHWC = np.random.default_rng(0).integers(0, 256, (66, 32, 32, 3), dtype=np.uint8)
    rows = images_NHWC.transpose(0, 3, 1, 2).reshape(66, -1)
    labels = [position % 3 for position in range(66)]
    for number in range(5):
        part = slice(12 * number, 12 * number + 12)
        content = {"data": np.ascontiguousarray(rows[part]), "labels": labels[part]}
        batch = pickle.dumps(content, protocol=1 + number) if number else python2_batch(rows[part], labels[part])
        (folder / f"data_batch_{number + 1}").write_bytes(batch)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": rows[60:], "labels": labels[60:]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    return root, images_NHWC


def test_caltech101_draws_25_and_5_of_every_class_and_tests_on_the_rest(tmp_path: Path) -> None:
    root = caltech_like(tmp_path)
    images = load_images("caltech101", root=root, seed=1)
    assert Counter(images.split_N.tolist()) == {"train": 102 * 25, "val": 102 * 5, "test": 102 * 2}
    for split, count in (("train", 25), ("val", 5)):
        assert set(Counter(images.labels_N[images.split_N == split].tolist()).values()) == {count}
    assert images.metric == "mean_per_class"
    assert images.ids_N[0] == "class_000/image_0000.jpg"
    inside = load_images("caltech101", root=root / "101_ObjectCategories", seed=1)
    assert inside.digest == images.digest
    assert load_images("caltech101", root=root, seed=2).digest != images.digest


def test_caltech101_must_be_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the folder 101_ObjectCategories"):
        load_images("caltech101", root=tmp_path)
    with pytest.raises(InputError, match=r"has 102 classes with BACKGROUND_Google, but .* has 3"):
        load_images("caltech101", root=caltech_like(tmp_path, num_classes=3))


def test_caltech101_as_published_has_the_papers_sizes(real_data: Path) -> None:
    images = load_images("caltech101", root=real_data / "caltech101")
    assert Counter(images.split_N.tolist()) == {"train": 2550, "val": 510, "test": 6084}


def test_cifar10_pickles_give_pixels_and_a_stratified_tenth_as_val(tmp_path: Path) -> None:
    root, images_NHWC = cifar_like(tmp_path)
    images = load_images("cifar10", root=root)
    assert Counter(images.split_N.tolist()) == {"train": 54, "val": 6, "test": 6}
    assert Counter(images.labels_N[images.split_N == "val"].tolist()) == {0: 2, 1: 2, 2: 2}
    for index in range(len(images)):
        split, class_name, position = str(images.ids_N[index]).split("/")
        assert (images.split_N[index] == "test") == (split == "test")
        assert images.class_names[images.labels_N[index]] == class_name
        row = int(position) + (60 if split == "test" else 0)
        np.testing.assert_array_equal(images.source.read(index), images_NHWC[row])
    assert load_images("cifar10", root=root / "cifar-10-batches-py").digest == images.digest


def test_cifar10_digest_changes_with_one_pixel(tmp_path: Path) -> None:
    root, _ = cifar_like(tmp_path)
    before = load_images("cifar10", root=root).digest
    path = root / "cifar-10-batches-py" / "test_batch"
    content = pickle.loads(path.read_bytes())
    content["data"][3, 100] ^= 1
    path.write_bytes(pickle.dumps(content))
    assert load_images("cifar10", root=root).digest != before


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    root, _ = cifar_like(tmp_path)
    marker = tmp_path / "ran"
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cos\nsystem\n(S'touch " + bytes(marker) + b"'\ntR.")
    with pytest.raises(InputError, match=r"data_batch_3.*os\.system, which CIFAR's files do not"):
        load_images("cifar10", root=root)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", pickle.dumps({"labels": [1]}), pickle.dumps([1])])
def test_a_damaged_cifar10_file_is_named(tmp_path: Path, content: bytes) -> None:
    root, _ = cifar_like(tmp_path)
    (root / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(InputError, match="data_batch_2"):
        load_images("cifar10", root=root)
    (root / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(InputError, match="lacks the file"):
        load_images("cifar10", root=root)


def test_cifar10_labels_without_a_class_are_refused(tmp_path: Path) -> None:
    root, _ = cifar_like(tmp_path)
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES[:2]}))
    with pytest.raises(InputError, match="labels outside 0 to 1 in train"):
        load_images("cifar10", root=root)


def test_cifar10_may_be_image_folders(tmp_path: Path, photo: Callable[..., Image.Image]) -> None:
    for split, count in (("train", 20), ("test", 3)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                photo(number, 32, 32).save(tmp_path / split / name / f"{number:04d}.jpg")
    images = load_images("cifar10", root=tmp_path)
    assert Counter(images.split_N.tolist()) == {"train": 54, "val": 6, "test": 9}
    assert images.name == "cifar10"


def test_an_archive_alone_is_not_cifar10(tmp_path: Path) -> None:
    (tmp_path / "cifar10.tar.xz").write_bytes(b"")
    with pytest.raises(InputError, match="must be unpacked first"):
        load_images("cifar10", root=tmp_path)


def test_a_spec_is_a_folder_a_manifest_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "animals" / name / f"{number}.jpg").write_bytes(b"")
    (tmp_path / "animals.csv").write_text(
        "path,label\n"
        + "".join(f"animals/{name}/{number}.jpg,{name}\n" for name in ("cat", "dog") for number in range(3))
    )
    monkeypatch.chdir(tmp_path)
    assert load_images("animals").name == load_images("animals.csv").name == "animals"
    np.testing.assert_array_equal(load_images("animals").split_N, load_images("animals.csv").split_N)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("caltech11", UnknownNameError, "did you mean caltech101"),
        ("./caltech101x", InputError, "no folder or manifest at './caltech101x'"),
        ("photos/mine", InputError, "no folder or manifest"),
        ("list.csv", InputError, "no folder or manifest"),
        ("", InputError, "no images named"),
        ("cifar10", InputError, "needs --root"),
    ],
)
def test_a_spec_that_names_nothing_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: type[InputError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load_images(spec)


def test_the_digits_are_written_where_they_are_not(tmp_path: Path) -> None:
    images = load_images("digits", root=tmp_path / "somewhere")
    assert images.name == "digits"
    assert Counter(images.split_N.tolist()) == {"train": 400, "val": 200, "test": 400}
    (tmp_path / "somewhere" / "0" / "0000.png").unlink()
    assert load_images("digits", root=tmp_path / "somewhere").digest == images.digest


def test_a_root_goes_with_a_dataset_only(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no dataset named"):
        load_images("fish", root=tmp_path)
    assert len(DATASETS) == 12 + 1  # the paper's, and the digits
