"""Load CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from the pickles that torchvision unpacks or from image folders.

Train and test are given. Val is drawn by a seed: a tenth of every class of CIFAR-10, and 5,067 of the 50,000 images of
CIFAR-100 in proportion to its classes, as the paper's follow-ups have them. The metric is top-1 accuracy; CIFAR-100
has its fine labels.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.formats.folder import list_classes
from penultimate.engine.images.image_set import SPLIT_DTYPE, ImageSet
from penultimate.engine.images.sources import ArraySource
from penultimate.engine.images.splits import hold_out
from penultimate.store.errors import InputError

# Shapes: N samples.


@dataclass(frozen=True, kw_only=True, slots=True)
class Pickles:
    """Names of the files of one of the two datasets, and of what is in them."""

    name: str
    title: str
    folder: str
    meta: str
    names_key: str
    labels_key: str

    batches: Mapping[str, Sequence[str]]
    """Split -> names of its files."""

    val_fraction: float
    """Fraction of train that becomes val: of the 50,000 published images exactly the published number."""


CIFAR10 = Pickles(
    name="cifar10",
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    meta="batches.meta",
    names_key="label_names",
    labels_key="labels",
    batches={"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
    val_fraction=0.1,
)
CIFAR100 = Pickles(
    name="cifar100",
    title="CIFAR-100",
    folder="cifar-100-python",
    meta="meta",
    names_key="fine_label_names",
    labels_key="fine_labels",
    batches={"train": ["train"], "test": ["test"]},
    val_fraction=5_067 / 50_000,
)


def load_cifar10(root: Path, *, seed: int = 0, cache: DigestCache | None = None) -> ImageSet:
    """Load CIFAR-10 from its pickles in ``cifar-10-batches-py``, or from folders of images; ``seed`` draws val.

    Raises InputError if ``root`` holds neither layout.
    """
    return _load(root, CIFAR10, seed=seed, cache=cache)


def load_cifar100(root: Path, *, seed: int = 0, cache: DigestCache | None = None) -> ImageSet:
    """Load CIFAR-100 from its pickles in ``cifar-100-python``, or from folders of images; ``seed`` draws val.

    Raises InputError if ``root`` holds neither layout.
    """
    return _load(root, CIFAR100, seed=seed, cache=cache)


def _load(root: Path, pickles: Pickles, *, seed: int, cache: DigestCache | None) -> ImageSet:
    """Load one of the two sets from ``root``.

    ``root`` is or holds the folder of pickles, or holds images in ``train/<class>/`` and ``test/<class>/``.

    Ids of the pickles' images are ``train/airplane/00001``: split, class and position among all of the split. An
    archive is not unpacked. Raises InputError if there is neither layout.
    """
    for folder in (root, root / pickles.folder):
        if (folder / pickles.meta).is_file():
            return _from_pickles(folder, pickles, seed=seed)
    if not (root / "train").is_dir() or not (root / "test").is_dir():
        raise InputError(
            f"no {pickles.title} at {str(root)!r}: expected {pickles.folder}/ or train/<class>/ and test/<class>/ "
            "(an archive must be unpacked first)"
        )
    listing = list_classes(root)
    split_N = _with_val(listing.split_N, listing.labels_N, pickles, seed)
    return listing.image_set(name=pickles.name, split_N=split_N, metric="top1", provenance={"seed": seed}, cache=cache)


def _from_pickles(folder: Path, pickles: Pickles, *, seed: int) -> ImageSet:
    class_names = [str(name) for name in _unpickle(folder / pickles.meta, pickles.names_key)]
    ids: list[str] = []
    labels: list[int] = []
    images = []
    for split, names in pickles.batches.items():
        of_split = [int(label) for name in names for label in _unpickle(folder / name, pickles.labels_key)]
        if not all(0 <= label < len(class_names) for label in of_split):
            raise InputError(f"{str(folder)!r} has labels outside 0 to {len(class_names) - 1} in {split}")
        ids += [f"{split}/{class_names[label]}/{position:05d}" for position, label in enumerate(of_split)]
        labels += of_split
        images += [_pixels(folder / name) for name in names]
    images_NHWC = np.concatenate(images)
    if len(images_NHWC) != len(ids):
        raise InputError(f"{str(folder)!r} has {len(images_NHWC)} images but {len(ids)} labels")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ids = [ids[position] for position in order]
    labels_N = np.array(labels, np.int64)[order]
    given_N = np.array([id_.split("/")[0] for id_ in ids], SPLIT_DTYPE)
    return build_image_set(
        name=pickles.name,
        ids=ids,
        labels_N=labels_N,
        split_N=_with_val(given_N, labels_N, pickles, seed),
        class_names=class_names,
        metric="top1",
        source=ArraySource(images_NHWC[order], str(folder.resolve())),
        provenance={"source": pickles.folder, "root": str(folder.resolve()), "seed": seed},
    )


def _with_val(split_N: NDArray[np.str_], labels_N: NDArray[np.int64], pickles: Pickles, seed: int) -> NDArray[np.str_]:
    if "val" in split_N:
        return split_N
    total = round(pickles.val_fraction * int((split_N == "train").sum()))
    return hold_out(split_N, labels_N, total, split="val", among="train", seed=seed)


def _pixels(path: Path) -> NDArray[np.uint8]:
    """Read pixels (N, 32, 32, 3) from a file in which a row is 1,024 red, then green, then blue values."""
    data = np.asarray(_unpickle(path, "data"))
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise InputError(f"{str(path)!r} should hold uint8 of shape (N, 3072), not {data.dtype} of {data.shape}")
    images_NHWC: NDArray[np.uint8] = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images_NHWC


def _dtype(code: str, align: int = 0, copy: int = 1) -> np.dtype[Any]:
    """Make a dtype from pickled integers, of which NumPy 2.4.0 to 2.4.4 would warn (numpy/numpy#31177)."""
    return np.dtype(code, align=bool(align), copy=bool(copy))


def _encode(text: str, _encoding: str) -> bytes:
    """Encode as ``codecs.encode`` does, for the one encoding in which pickles of protocol 2 keep bytes."""
    return text.encode("latin1")


_RECONSTRUCT, _FROMBUFFER = np.empty(0).__reduce__()[0], np.empty(0).__reduce_ex__(5)[0]  # they have no public name
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # as NumPy 1 wrote them, the published files among them
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.numeric", "_frombuffer"): _FROMBUFFER,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that rebuilds NumPy arrays and plain values, and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which CIFAR's files do not")
        return _ALLOWED[module, name]


def _unpickle(path: Path, key: str) -> Any:
    """Read one entry of a batch file. The files were written by Python 2, whose strings are read as latin-1."""
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
        return content[key]
    except FileNotFoundError as error:
        raise InputError(f"CIFAR lacks the file {str(path)!r}") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise InputError(f"{str(path)!r} is not a CIFAR file with {key!r}: {error!r}") from error
