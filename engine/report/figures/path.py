"""Draw regularisation paths: val score, train loss and size of the weights against the strength, a line a backbone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from penultimate.engine.report.figures.report_figure import ReportFigure
from penultimate.engine.report.figures.style import colour_of, marker_of, style
from penultimate.store.trials.trial import Trial

PANELS = {"val": "val {metric} (%)", "train_loss": "train loss (nats)", "weight_norm": "|W|"}
"""Key of a row of the history -> label of the panel's axis."""


def path_rows(trial: Trial) -> pd.DataFrame:
    """Return the fits on train of a probe's trial, a row a strength, strongest first; empty for other methods.

    Where the readout was chosen too, they are those of the chosen one.
    """
    chosen = trial.chosen.get("readout")
    rows = [
        row for row in trial.history if row.get("fitted_on") == "train" and "l2" in row and row.get("readout") == chosen
    ]
    return pd.DataFrame(rows).sort_values("l2", ascending=False) if rows else pd.DataFrame()


def path_figure(name: str, title: str, trials: Sequence[Trial], lines: Sequence[str]) -> ReportFigure:
    """Draw the paths of ``trials``, probes on one dataset, named by ``lines``; a trial has at least two strengths.

    Trials written before loss and norm were kept have the first panel only.
    """
    paths = [path_rows(trial) for trial in trials]
    panels = [key for key in PANELS if any(key in path and path[key].notna().any() for path in paths)]
    hover: dict[str, str] = {}
    with style():
        figure = Figure(figsize=(3.9, 0.5 + 1.35 * len(panels) + 0.14 * len(lines)), layout="constrained")
        drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for panel, key in zip(drawn, panels, strict=True):
            for line, path, trial in zip(lines, paths, trials, strict=True):
                _curve(panel, path, key, trial, line, lines, hover)
            panel.set_ylabel(PANELS[key].format(metric=trials[0].metric))
            panel.set_xscale("log")
            if key != "val":
                panel.set_yscale("log")
        drawn[-1].invert_xaxis()
        drawn[-1].set_xlabel("l2 on the sum of losses (weaker to the right)")
        for line in lines:
            drawn[0].plot([], [], color=colour_of(line, lines), marker=marker_of(line, lines), label=line)
        figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower left")
    return ReportFigure(
        name=name,
        title=title,
        caption="Each strength of the path fitted to train alone, its score on val, and the strength that val "
        "chose, marked; "
        "the head is then fitted again to train and val.",
        figure=figure,
        numbers={"": pd.concat([path.assign(line=line) for path, line in zip(paths, lines, strict=True)])},
        hover=hover,
    )


def _curve(
    axes: Axes, path: pd.DataFrame, key: str, trial: Trial, line: str, lines: Sequence[str], hover: dict[str, str]
) -> None:
    if key not in path:
        return
    scale = 100 if key == "val" else 1
    values = scale * path[key].astype(float)
    if key == "train_loss":
        values = values.clip(lower=1e-12)  # 0 up to rounding, on a logarithmic axis
    colour = colour_of(line, lines)
    axes.plot(path["l2"], values, color=colour, linewidth=1.1)
    at = int(np.argmin(np.abs(np.log(path["l2"].to_numpy(float)) - np.log(trial.chosen["l2"]))))
    gid = f"{key}{list(lines).index(line)}"
    marks: dict[str, Any] = {"marker": marker_of(line, lines), "markersize": 6, "markeredgecolor": "white"}
    axes.plot([path["l2"].iloc[at]], [values.iloc[at]], color=colour, **marks, zorder=4, gid=gid)
    unit = " %" if key == "val" else ""
    hover[gid] = f"{line}: l2 = {trial.chosen['l2']:.3g} chosen, {key.replace('_', ' ')} {values.iloc[at]:.4g}{unit}"
