"""Names of datasets that tell them apart: trials of two folders called ``images`` in one log are not of one dataset."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from penultimate.store.trials.trial import Trial


def told_apart(trials: Iterable[Trial]) -> list[Trial]:
    """The trials, their dataset's name followed by eight digits of its images' digest where others share the name."""
    known = list(trials)
    names = names_apart((trial.dataset, trial.features["images"]) for trial in known)
    return [
        trial if trial.dataset == name else replace(trial, dataset=name)
        for trial, name in zip(known, names, strict=True)
    ]


def names_apart(datasets: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return the name of each dataset of (name, digest of its images), with eight digits where others share the name.

    A digest is None where it is not known, as before an extraction is complete: the name then stays as it is.

    >>> names_apart([("images", "aaaaaaaa11"), ("images", "bbbbbbbb22"), ("pets", "cccccccc33")])
    ['images (aaaaaaaa)', 'images (bbbbbbbb)', 'pets']
    >>> names_apart([("images", "aaaaaaaa11"), ("images", "bbbbbbbb22"), ("images", None)])
    ['images (aaaaaaaa)', 'images (bbbbbbbb)', 'images']
    """
    known = list(datasets)
    images_of: defaultdict[str, set[str]] = defaultdict(set)
    for name, images in known:
        images_of[name] |= set() if images is None else {images}
    return [f"{name} ({images[:8]})" if images and len(images_of[name]) > 1 else name for name, images in known]
