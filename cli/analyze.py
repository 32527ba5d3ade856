"""``penultimate analyze``: print the statistics of a trial log, or of any table of accuracies."""

from typing import Annotated, Any, Literal

import typer

from penultimate.cli import options
from penultimate.cli.output import print_json, print_table
from penultimate.cli.table_options import (
    DatasetColumns,
    ImagenetColumn,
    ImagenetTable,
    ModelColumn,
    Table,
    TableUnit,
    TrialsOrTable,
)
from penultimate.engine.analysis.accuracy_table import read_accuracy_table
from penultimate.engine.analysis.analysis import Analysis
from penultimate.engine.analysis.analysis import analyze as analyze_table
from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.engine.analysis.findings import Findings, find
from penultimate.engine.analysis.statistics.correlation import NUM_RESAMPLES, Correlation
from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.engine.report.sentences import speedup_sentence
from penultimate.store.errors import InputError
from penultimate.store.trials.trial_log import TrialLog

_MODEL_COLUMNS = {
    "model": "model",
    "imagenet": "ImageNet %",
    "adjusted": "adjusted log odds",
    "p_value": "p against best",
    "p_value_holm": "p (Holm)",
    "tie": "best",
}
_DATASET_COLUMNS = {"dataset": "dataset", "r": "r", "interval": "95 %", "p_value": "p", "rho": "rho"}
_PAIR_COLUMNS = {
    "setting": "setting",
    "dataset": "dataset",
    "better": "better in",
    "p_value": "p (Wilcoxon)",
    "p_value_holm": "p (Holm)",
}
_SPEED_COLUMNS = {
    "method": "method",
    "curves": "curves",
    "steps": "steps to 90 %",
    "steps_interval": "95 %",
    "steps_quartiles": "quartiles",
    "epochs": "epochs to 90 %",
    "epochs_quartiles": "quartiles",
}


def analyze(
    runs: TrialsOrTable = None,
    table: Table = None,
    imagenet: ImagenetColumn = "imagenet",
    model_column: ModelColumn = None,
    dataset: DatasetColumns = None,
    unit: TableUnit = None,
    imagenet_table: ImagenetTable = None,
    correction: Annotated[
        Literal["sqrt", "printed"],
        typer.Option(help="Factor on standard errors for M models: sqrt(M/(M-1)) (Morey), or M/(M-1) as printed."),
    ] = "sqrt",
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap samples of the intervals.")] = NUM_RESAMPLES,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Say how well ImageNet accuracy predicts transfer, which models tie for best, and how sure that is.

    Accuracies are compared as log odds. Intervals are 95 % bootstrap intervals, over models and over datasets; p is
    two-sided. A model ties with the best where a paired t-test over datasets finds no difference (p > 0.05); Holm's
    correction stands beside.

    \b
    penultimate analyze trials/
    penultimate analyze trials/ --json | jq '.settings.probe.pearson_r'
    penultimate analyze --table accuracies.csv --imagenet imagenet --json
    penultimate analyze --table accuracies.csv --dataset cars --dataset dtd --unit percent
    """
    if (runs is None) == (table is None):
        raise InputError("analyze reads either TRIALS, the folder of a trial log, or --table FILE; give one of them")
    if table is not None:
        accuracies = read_accuracy_table(
            table, imagenet=imagenet, model_column=model_column, datasets=dataset or (), unit=unit
        )
        analysis = analyze_table(accuracies, correction=correction, seed=seed, num_resamples=resamples)
        for note in (f"accuracies are {accuracies.unit}", *accuracies.notes):
            typer.echo(note, err=True)
        if json:
            print_json(analysis.as_json())
        else:
            _print_analysis(analysis, title=str(table))
    elif runs is not None:
        found = find(
            told_apart(TrialLog(runs).trials()),
            imagenet=imagenet_top1(imagenet_table),
            correction=correction,
            seed=seed,
            num_resamples=resamples,
        )
        if json:
            print_json(found.as_json())
        else:
            _print_findings(found)


def _print_analysis(analysis: Analysis, *, title: str) -> None:
    numbers = analysis.as_json()
    typer.echo(f"{title}: {len(analysis.table.models)} models, {len(analysis.table.datasets)} datasets")
    typer.echo(f"  {_sentence(analysis.correlation)}")
    for size, (datasets, correlation) in analysis.by_size.items():
        typer.echo(f"  {size} datasets ({', '.join(datasets)}): r = {correlation.pearson_r:.2f}")
    models = sorted(numbers["models"], key=lambda row: -row["adjusted_mean"])
    print_table([_model_cells(row) for row in models], _MODEL_COLUMNS)
    print_table([_dataset_cells(name, each) for name, each in analysis.by_dataset.items()], _DATASET_COLUMNS)
    lines = [f"log odds: {analysis.log_odds.rule}"]
    if analysis.adjusted.standard_error_M.size and len(analysis.table.datasets) > 1:
        lines.append(
            f"standard errors over datasets, times {analysis.adjusted.factor:.4f} ({analysis.adjusted.correction})"
        )
    typer.echo("; ".join(lines), err=True)


def _sentence(correlation: Correlation) -> str:
    over = correlation.r_interval_datasets
    return (
        f"r = {correlation.pearson_r:.3f} between logit ImageNet and mean logit transfer accuracy, "
        f"p = {correlation.p_value:.2g}; 95 % {_range(correlation.r_interval_models)} over models"
        + (f", {_range(over)} over datasets" if over else "")
        + f"; rho = {correlation.spearman_rho:.3f}"
    )


def _model_cells(row: dict[str, Any]) -> dict[str, Any]:
    error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.3f}"
    return {
        "model": row["model"],
        "imagenet": f"{100 * row['imagenet']:.2f}",
        "adjusted": f"{row['adjusted_mean']:+.3f}{error}",
        "p_value": _p(row["p_value"]),
        "p_value_holm": _p(row["p_value_holm"]),
        "tie": "best" if row["is_best"] else "tie" if row["ties_with_best"] else "",
    }


def _dataset_cells(name: str, correlation: Correlation) -> dict[str, Any]:
    return {
        "dataset": name,
        "r": f"{correlation.pearson_r:.3f}",
        "interval": _range(correlation.r_interval_models),
        "p_value": _p(correlation.p_value),
        "rho": f"{correlation.spearman_rho:.3f}",
    }


def _print_findings(found: Findings) -> None:
    for setting, analysis in found.analyses.items():
        _print_analysis(analysis, title=setting)
    pairs = [
        {
            "setting": f"{pair.first} against {pair.second}",
            "dataset": pair.dataset or "all",
            "better": f"{pair.comparison.num_better} of {pair.comparison.num_pairs}",
            "p_value": _p(pair.comparison.p_value),
            "p_value_holm": _p(pair.p_value_holm),
        }
        for pair in found.setting_pairs
    ]
    if pairs:
        print_table(pairs, _PAIR_COLUMNS)
    speeds = [
        {
            "method": speed.method,
            "curves": speed.num_curves,
            "steps": f"{speed.steps:,.0f}",
            "steps_interval": _counts(speed.steps_interval),
            "steps_quartiles": _counts(speed.steps_quartiles),
            "epochs": f"{speed.epochs:,.1f}",
            "epochs_quartiles": _counts(speed.epochs_quartiles, digits=1),
        }
        for speed in found.speeds
    ]
    if speeds:
        print_table(speeds, _SPEED_COLUMNS)
    if found.speedup:
        typer.echo(speedup_sentence(found.speedup))
    for note in found.notes:
        typer.echo(note, err=True)


def _p(value: float | None) -> str | None:
    return None if value is None or value != value else f"{value:.2g}"


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _counts(interval: tuple[float, float], *, digits: int = 0) -> str:
    low, high = interval
    return "-" if low != low else f"{low:,.{digits}f} to {high:,.{digits}f}"
