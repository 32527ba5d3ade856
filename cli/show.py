"""``penultimate show``: print the scoreboard of a trial log."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from penultimate.cli import options
from penultimate.cli.options import TrialsLocation
from penultimate.cli.output import print_json, print_table, with_readout
from penultimate.cli.output_paths import figure_to_write
from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.scoreboard import scoreboard
from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.engine.report.names import chosen_text
from penultimate.store.trials.trial_log import TrialLog

_COLUMNS = {
    "dataset": "dataset",
    "backbone": "backbone",
    "readout": "readout",
    "variant": "setting",
    "method": "method",
    "shots": "shots",
    "seed": "seed",
    "metric": "metric",
    "percent": "test %",
    "interval": "95 %",
    "tie": "best",
    "imagenet": "ImageNet %",
    "n_test": "n",
    "mean_per_class": "balanced %",
    "macro_f1": "macro F1 %",
    "auroc": "AUROC",
    "log_loss": "log loss",
    "ece": "ECE %",
    "calibrated_ece": "calibrated %",
    "chosen": "chosen",
    "converged": "converged",
}


def show(
    trials: TrialsLocation,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the scoreboard here (.png or .pdf).", callback=figure_to_write)
    ] = None,
    json: options.Json = False,
) -> None:
    """Print the scoreboard: each backbone's score on test with its interval, and which of them tie with the best.

    Beside the metric stand balanced accuracy, macro F1, AUROC (one class against the rest), log loss and the expected
    calibration error (ECE), as fitted and calibrated; --json has the Brier score too. A backbone ties with the best
    where a paired test on the same images finds no difference (p > 0.05). Settings in which trials of one backbone
    differ stand under `setting`. What was not certified to its tolerance has `no` under `converged`.

    \b
    penultimate show trials/
    penultimate show trials/ --json | jq '.[0]'
    penultimate show trials/ --figure scoreboard.png
    """
    log = TrialLog(trials)
    if log.torn_bytes:
        typer.echo(f"{trials}: the last record was cut off while it was written and is left out", err=True)
    board = scoreboard(told_apart(log.trials()), imagenet=imagenet_top1())
    if json:
        print_json([asdict(row) for row in board.rows])
    else:
        rows = [_cells(row) for row in board.rows]
        subsets = any(row["shots"] for row in rows)
        said = {field for row in rows for field, cell in row.items() if cell not in (None, "")}
        columns = {field: head for field, head in _COLUMNS.items() if field in said and (subsets or field != "seed")}
        print_table(rows, with_readout(columns, rows))
        for note in board.notes:
            typer.echo(note, err=True)
    if figure is not None:
        from penultimate.engine.report.sections.forests import draw_scoreboard  # imports matplotlib

        draw_scoreboard(board, figure)


def _cells(row: ScoreRow) -> dict[str, Any]:
    cells: dict[str, Any] = {field: getattr(row, field, None) for field in _COLUMNS}
    cells["percent"] = f"{100 * row.value:.2f}"
    if row.interval is not None:
        cells["interval"] = f"{100 * row.interval[0]:.1f} - {100 * row.interval[1]:.1f}"
    if row.imagenet_top1 is not None:
        cells["imagenet"] = f"{100 * row.imagenet_top1:.2f}"
    cells["tie"] = "best" if row.is_best else "tie" if row.ties_with_best else ""
    for score, digits in (("mean_per_class", 2), ("macro_f1", 2), ("ece", 2), ("auroc", None), ("log_loss", None)):
        value = row.scores.get(score)
        if value is not None:
            cells[score] = f"{value:.3f}" if digits is None else f"{100 * value:.{digits}f}"
    if "ece" in row.calibrated:
        cells["calibrated_ece"] = f"{100 * row.calibrated['ece']:.2f}"
    cells["chosen"] = chosen_text(row.chosen)
    return cells
