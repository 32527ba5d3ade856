"""Splits that names tell, and random ones: seeded and stratified, a fraction or a number of every class for each."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.images.image_set import SPLIT_NAMES, SPLITS
from penultimate.store.errors import InputError, LabelsError

# Shapes: N samples.

UNLABELLED = "unlabelled"
"""Role, instead of a split, of a folder that holds images to be classified."""

_TOLD = SPLIT_NAMES | dict.fromkeys(
    ("pred", "predict", "prediction", "predictions", "unlabelled", "unlabeled", "unsup"), UNLABELLED
)
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ENDING = re.compile("(set|data|split|images?|imgs?)$")


def splits_in_name(name: str) -> set[str]:
    """Return the splits that the words of a file's or folder's name tell, in any case.

    UNLABELLED stands for images to be classified.

    >>> [splits_in_name(name) for name in ("seg_train", "ILSVRC2012_img_val", "TestSet", "cats")]
    [{'train'}, {'val'}, {'test'}, set()]
    """
    words = [word.lower() for word in _WORD.findall(name)]
    return {_TOLD[word] for whole in words for word in (whole, _ENDING.sub("", whole)) if word in _TOLD}


def check_known(found: Iterable[str], known: Sequence[str], split: str) -> None:
    """Raise InputError for a class of ``split`` that train, whose classes are ``known``, lacks."""
    if not (lacking := sorted(set(found) - set(known))):
        return
    same = {unicodedata.normalize("NFC", name): name for name in known}
    twin = same.get(unicodedata.normalize("NFC", lacking[0]))
    more = ""
    if twin is not None:
        more = f" ({lacking[0]!a} and train's {twin!a} look alike and are other Unicode characters: rename one)"
    raise LabelsError(
        f"{split} has classes that train lacks, which no probe can learn: {', '.join(lacking[:5])}{more}",
        "add them to train, take them out",
    )


Allotment = Callable[[int], dict[str, int]]
"""Number of images of one class -> how many of them each split gets; the rest stays where it is."""


def allot(
    split_N: NDArray[np.str_],
    labels_N: NDArray[np.int64],
    class_names: Sequence[str],
    allotment: Allotment,
    *,
    among: str,
    seed: int,
) -> NDArray[np.str_]:
    """Return ``split_N`` with random samples of ``among`` moved to other splits, class by class.

    A class is shuffled by its own generator, seeded with ``(seed, class index)``. Raises InputError, which names the
    class, where a class has too few images to fill every split and keep one.
    """
    result = split_N.copy()
    candidates = np.flatnonzero(split_N == among)
    by_class = candidates[np.argsort(labels_N[candidates], kind="stable")]
    ends = np.searchsorted(labels_N[by_class], np.arange(-1, len(class_names)), side="right")
    for label, class_name in enumerate(class_names):
        members = by_class[ends[label] : ends[label + 1]]
        wanted = allotment(len(members))
        needed = sum(wanted.values()) + 1  # one stays
        if len(members) < needed:
            gives = [f"{number} for {split}" for split, number in (wanted | {among: 1}).items()]
            raise InputError(
                f"class {class_name!r} has {len(members)} image{'s' * (len(members) != 1)} to split, and needs at "
                f"least {needed}: {', '.join(gives)}; add images, remove the class or give the splits as folders"
            )
        shuffled = np.random.default_rng((seed, label)).permutation(members)
        for split, number in wanted.items():
            result[shuffled[:number]] = split
            shuffled = shuffled[number:]
    return result


def hold_out(
    split_N: NDArray[np.str_], labels_N: NDArray[np.int64], total: int, *, split: str, among: str, seed: int
) -> NDArray[np.str_]:
    """Return ``split_N`` with exactly ``total`` random samples of ``among`` moved to ``split``, in class proportion.

    A class gives ``total`` times its fraction of ``among``, rounded down, and the classes with the largest remainders
    one more (Hamilton's method; the lower class index first among equals). Samples are shuffled as by ``allot``.
    """
    members_K = [np.flatnonzero((labels_N == label) & (split_N == among)) for label in range(int(labels_N.max()) + 1)]
    counts_K = np.array([len(members) for members in members_K])
    quotas_K = total * counts_K / max(1, counts_K.sum())
    gives_K = np.floor(quotas_K).astype(np.int64)
    largest = np.argsort(gives_K - quotas_K, kind="stable")[: total - int(gives_K.sum())]
    gives_K[largest] += 1
    result = split_N.copy()
    for label, (members, number) in enumerate(zip(members_K, gives_K, strict=True)):
        result[np.random.default_rng((seed, label)).permutation(members)[:number]] = split
    return result


def by_fraction(**fractions: float) -> Allotment:
    """Allot these fractions of a class (``val=0.2, test=0.2``), rounded to whole images, at least one to each split.

    A fraction of 0 gives that split nothing. Raises InputError unless all are in [0, 1) and add up to less than 1.
    """
    if not all(0.0 <= fraction < 1.0 for fraction in fractions.values()) or sum(fractions.values()) >= 1.0:
        raise InputError(f"split fractions must be in [0, 1) and leave something for train, got {fractions}")

    def allotment(count: int) -> dict[str, int]:
        return {split: max(1, round(count * fraction)) for split, fraction in fractions.items() if fraction > 0.0}

    return allotment


def draw_missing_splits(
    split_N: NDArray[np.str_],
    labels_N: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> NDArray[np.str_]:
    """Draw the splits that are missing from train, stratified by class.

    If ``val`` is given, nothing is drawn, even without ``test``. If ``train`` and ``test`` are given, ``val`` is drawn;
    if ``train`` alone is given, both are.
    """
    given = {split for split in SPLITS if (split_N == split).any()}
    if "val" in given:
        return split_N
    wanted = by_fraction(val=val_fraction) if "test" in given else by_fraction(val=val_fraction, test=test_fraction)
    return allot(split_N, labels_N, class_names, wanted, among="train", seed=seed)
