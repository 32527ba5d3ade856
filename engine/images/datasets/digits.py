"""Write and load scikit-learn's handwritten digits as image files: real data that installs with the package."""

from pathlib import Path

import numpy as np
from PIL import Image

from penultimate.engine.images.digest_cache import DigestCache, cache_folder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.image_set import ImageSet

NAME = "digits"
_IMAGES_PER_CLASS = 100
_TEST_FRACTION = 0.4  # on 200 test images a random network cannot be told from a trained one


def load_digits(root: Path | None = None, *, seed: int = 0, cache: DigestCache | None = None) -> ImageSet:
    """Load the digits below ``root``, and first write those that are not there.

    Of the 1,000 images 400 are test and 200 val. Without a root they are kept in the user's cache folder.
    """
    root = root or cache_folder() / NAME
    write_digits(root)
    return load_folder(root, name=NAME, test_fraction=_TEST_FRACTION, seed=seed, cache=cache)


def write_digits(folder: Path) -> None:
    """Write the first 100 images of each of scikit-learn's ten digits, 8 x 8 grey, to ``folder/<digit>/<row>.png``.

    Raises OSError where nothing can be written.
    """
    from sklearn import datasets  # only these images need it

    digits = datasets.load_digits()
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(digits.target == digit)[:_IMAGES_PER_CLASS]:
            path = folder / str(digit) / f"{row:04d}.png"
            if not path.exists():
                grey = (digits.images[row] * (255 / 16)).round().astype(np.uint8)  # ink runs from 0 to 16
                partial = path.with_suffix(".partial")
                Image.fromarray(grey).save(partial, format="png")
                partial.replace(path)
