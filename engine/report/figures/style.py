"""Set the style of every figure, and scale axes in log odds with ticks in per cent.

Colours are Okabe & Ito's (2008), which colour-blind readers can distinguish; each also has its own marker, line or
filling, so that a figure reads the same in black and white.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, INK, GREY, PALE = "#CC79A7", "#56B4E9", "#222222", "#8a8a8a", "#c9c9c9"
LIGHT_SKY = "#a6dcf7"
"""Lighter than any other method's, so that four of them differ on a grey print."""

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""Markers, of a number that has no common divisor with the colours': 77 pairs before one repeats."""

METHOD_COLOURS = {"probe": ORANGE, "knn": LIGHT_SKY, "finetune": BLUE, "scratch": INK}
METHOD_MARKERS = {"probe": "^", "knn": "v", "finetune": "o", "scratch": "s"}
METHOD_LINES = {"probe": (0, (1, 1)), "knn": (0, (3, 1, 1, 1)), "finetune": "solid", "scratch": (0, (5, 2))}
METHOD_HATCHES = {"probe": "", "knn": "...", "finetune": "///", "scratch": "xxx"}

ON_PAGE = {
    "blue": BLUE, "orange": ORANGE, "green": GREEN, "vermilion": VERMILION, "purple": PURPLE, "sky": SKY, "ink": INK,
    "grey": GREY, "pale": PALE, "paper": "#ffffff",
}  # fmt: skip
"""CSS variable of the page -> the colour it stands for on white; on a dark page it is another (``page.css``)."""

_NICE = (
    (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999),
    (0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999),
    (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999),
)
"""Sets of ticks to choose from, coarse to fine."""


@contextmanager
def style() -> Iterator[None]:
    """Apply the style within a ``with`` block; figures are drawn and saved inside it."""
    settings: dict[Any, Any] = {  # matplotlib types the keys as a union of some 300 literals
        "font.size": 8,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.facecolor": "white",
        "axes.titlesize": 9,
        "axes.labelsize": 8,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "lines.markersize": 4.5,
        "svg.fonttype": "none",  # text stays text: searchable, and the page's own font
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(settings):
        yield


def colour_of(name: str, names: Sequence[str]) -> str:
    """Return the colour of a method, or the colour at the index of ``name`` among ``names``."""
    return METHOD_COLOURS.get(name) or COLOURS[names.index(name) % len(COLOURS)]


def marker_of(name: str, names: Sequence[str]) -> str:
    """Return the marker of a method, or the marker at the index of ``name`` among ``names``."""
    return METHOD_MARKERS.get(name) or MARKERS[names.index(name) % len(MARKERS)]


def marker_style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Return colour and marker as matplotlib's keywords."""
    return {"color": colour_of(name, names), "marker": marker_of(name, names)}


def logit_ticks(low: float, high: float, *, at_most: int = 6) -> list[float]:
    """Return round fractions between ``low`` and ``high``, at least two where they differ, evenly apart in log odds."""
    for nice in _NICE:
        inside = [tick for tick in nice if low <= tick <= high]
        if len(inside) >= 3:
            return _thinned(inside, at_most)
    linear = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in linear if max(low, 1e-9) <= tick <= min(high, 1 - 1e-9)]


def _thinned(ticks: Sequence[float], at_most: int) -> list[float]:
    """Drop ticks that are nearer to the one before than an ``at_most``-th of their range in log odds."""
    gap = (logit(ticks[-1]) - logit(ticks[0])) / at_most
    kept = [ticks[0]]
    for tick in ticks[1:]:
        if logit(tick) - logit(kept[-1]) >= gap:
            kept.append(tick)
    return kept


def logit_axis(axes: Axes, which: str, values: ArrayLike, *, at_most: int = 6) -> None:
    """Scale the ``x`` or ``y`` axis in log odds around ``values``, fractions strictly between 0 and 1."""
    known = logit(np.asarray(values, dtype=np.float64))
    known = known[np.isfinite(known)]
    pad = max(0.06 * float(np.ptp(known)), 0.05)
    low, high = float(expit(known.min() - pad)), float(expit(known.max() + pad))
    getattr(axes, f"set_{which}scale")("logit")
    getattr(axes, f"set_{which}lim")(low, high)
    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(logit_ticks(low, high, at_most=at_most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{round(100 * tick, 6):g}"))
    axis.set_minor_formatter(NullFormatter())


def doubling_axis(axes: Axes, values: ArrayLike, *, at_most: int = 7) -> None:
    """Scale the x axis by powers of two, ticks at (some of) the values, which are positive."""
    distinct = np.unique(np.asarray(values, dtype=np.float64))
    axes.set_xscale("log", base=2)
    step = -(-len(distinct) // at_most)
    fixed_ticks(axes.xaxis, distinct[::step].tolist())
    margin = (distinct[-1] / distinct[0]) ** 0.06 if len(distinct) > 1 else 1.5
    axes.set_xlim(distinct[0] / margin, distinct[-1] * margin)


def fixed_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Set ticks at ``values`` and nowhere else, with short labels."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: _short(tick)))


def drawable_accuracy(accuracy: NDArray[np.float64], log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return accuracies that a logit axis can show: 0 and 1 become the accuracy of their (moved) log odds."""
    return np.where((accuracy > 0) & (accuracy < 1), accuracy, expit(log_odds))


def _short(number: float) -> str:
    if number >= 10_000:
        return f"{number / 1000:.3g}k"
    return f"{number:.4g}" if number >= 1000 else f"{number:.3g}"
