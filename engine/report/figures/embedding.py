"""Draw figure 4: two feature spaces of the same images, laid out in the plane by t-SNE."""

# Shapes: N samples, D feature dimensions, K chosen classes.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import COLOURS, marker_style, style
from penultimate.store.errors import InputError, UnknownNameError

MOST_CLASSES = 12
"""Largest number of classes whose marks can be told apart."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureSpace:
    """Features of some images by one network."""

    name: str
    features_ND: NDArray[np.floating]
    labels_N: NDArray[np.integer]
    ids_N: NDArray[np.str_]


def embedding_figure(
    first: FeatureSpace,
    second: FeatureSpace,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,
    perplexity: float = 30.0,
) -> ReportFigure:
    """Lay out the images of ``classes`` (the first ten with none named), each space by itself.

    Features are used as they are, as the probe sees them. Raises UnknownNameError for a class that is not there and
    InputError for more than twelve, or fewer images than t-SNE's perplexity needs.
    """
    chosen = list(classes) or list(class_names[:10])
    for name in chosen:
        if name not in class_names:
            raise UnknownNameError("class", name, class_names)
    if len(chosen) > MOST_CLASSES:
        raise InputError(f"{len(chosen)} classes cannot be told apart in one figure; choose at most {MOST_CLASSES}")
    hover: dict[str, str] = {}
    numbers = []
    with style():
        figure = Figure(figsize=(8.4, 3.7), layout="constrained")
        panels = figure.subplots(1, 2)
        for index, (axes, space) in enumerate(zip(panels, (first, second), strict=True)):
            numbers.append(_panel(axes, space, class_names, chosen, seed, perplexity, f"s{index}", hover))
        handles = [panels[0].plot([], [], **_marks(c, chosen), linestyle="none", label=c)[0] for c in chosen]
        figure.legend(handles=handles, loc="outside right upper")
    return ReportFigure(
        name="figure4",
        title=f"Feature spaces of {first.name} and {second.name}",
        caption=f"t-SNE (perplexity {perplexity:g}, seed {seed}) of the features of {len(chosen)} classes, each space "
        "by itself; distances between groups and the axes have no meaning.",
        figure=figure,
        numbers={"": pd.concat(numbers)},
        hover=hover,
    )


def _marks(name: str, chosen: Sequence[str]) -> dict[str, Any]:
    """Return the marker of a class, hollow once the colours repeat."""
    marks = marker_style(name, chosen)
    if chosen.index(name) < len(COLOURS):
        return marks | {"markeredgewidth": 0}
    return marks | {"markeredgewidth": 0.7, "markerfacecolor": "white"}


def _panel(
    axes: Axes,
    space: FeatureSpace,
    class_names: Sequence[str],
    chosen: Sequence[str],
    seed: int,
    perplexity: float,
    prefix: str,
    hover: dict[str, str],
) -> pd.DataFrame:
    numbers_K = [list(class_names).index(name) for name in chosen]
    rows = np.flatnonzero(np.isin(space.labels_N, numbers_K))
    if len(rows) <= perplexity:
        raise InputError(
            f"{space.name} has {len(rows)} images of these classes; a perplexity of {perplexity:g} needs more"
        )
    plane = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(space.features_ND[rows])
    names = np.array([class_names[label] for label in space.labels_N[rows]])
    for k, name in enumerate(chosen):
        mine = names == name
        gid = f"{prefix}k{k}"
        axes.plot(plane[mine, 0], plane[mine, 1], **_marks(name, chosen), markersize=3.5, linestyle="none", gid=gid)
        hover[gid] = f"{name}: {int(mine.sum())} images, {space.name}"
    axes.set_title(space.name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    return pd.DataFrame(
        {"space": space.name, "id": space.ids_N[rows], "class": names, "x": plane[:, 0], "y": plane[:, 1]}
    )
