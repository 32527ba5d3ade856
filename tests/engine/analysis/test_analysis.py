"""The analysis of a table agrees with published statistics.

Ericsson, Gouk & Hospedales, "How Well Do Self-Supervised Models Transfer?", CVPR 2021: tables 1 (linear) and 9.
"""

import json
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logit

from penultimate.engine.analysis.accuracy_table import AccuracyTable
from penultimate.engine.analysis.analysis import analyze
from penultimate.engine.analysis.statistics.resample import pearson

MODELS = (
    "InsDis", "MoCo-v1", "PCL-v1", "PIRL", "PCL-v2", "SimCLR-v1", "MoCo-v2", "SimCLR-v2", "SeLa-v2", "InfoMin", "BYOL",
    "DeepCluster-v2", "SwAV", "Supervised",
)  # fmt: skip
IMAGENET = np.array([59.5, 60.6, 61.5, 61.7, 67.6, 69.3, 71.1, 71.7, 71.8, 73.0, 74.3, 75.2, 75.3, 77.2]) / 100
DATASETS = (
    "aircraft", "caltech101", "cars", "cifar10", "cifar100", "dtd", "flowers", "food101", "pets", "sun397", "voc2007"
)  # fmt: skip
LINEAR = np.array(
    [
        [36.87, 71.12, 28.98, 80.28, 59.97, 68.46, 83.44, 63.39, 68.78, 49.47, 74.37],
        [35.55, 75.33, 27.99, 80.16, 57.71, 68.83, 82.10, 62.10, 69.84, 51.02, 75.93],
        [21.61, 76.90, 12.93, 81.84, 55.74, 62.87, 64.73, 48.02, 75.34, 45.70, 78.31],
        [37.08, 74.48, 28.72, 82.53, 61.26, 68.99, 83.60, 64.65, 71.36, 53.89, 76.61],
        [37.03, 86.42, 30.51, 91.91, 73.54, 70.59, 85.34, 64.88, 82.79, 56.25, 81.14],
        [44.90, 90.05, 43.73, 91.18, 72.73, 74.20, 90.87, 67.47, 83.33, 59.21, 80.77],
        [41.79, 87.92, 39.31, 92.28, 74.90, 73.88, 90.07, 68.95, 83.30, 60.32, 82.69],
        [46.38, 89.63, 50.37, 92.53, 76.78, 76.38, 92.90, 73.08, 84.72, 61.47, 81.57],
        [37.29, 87.20, 36.86, 92.73, 74.81, 74.15, 90.22, 71.08, 83.22, 62.71, 82.73],
        [38.58, 87.84, 41.04, 91.49, 73.43, 74.73, 87.18, 69.53, 86.24, 61.00, 83.24],
        [53.87, 91.46, 56.40, 93.26, 77.86, 76.91, 94.50, 73.01, 89.10, 59.99, 81.14],
        [54.49, 91.33, 58.60, 94.02, 79.61, 78.62, 94.72, 77.94, 89.36, 65.48, 83.94],
        [54.04, 90.84, 54.06, 93.99, 79.58, 77.02, 94.62, 76.62, 87.60, 65.58, 83.68],
        [43.59, 90.18, 44.92, 91.42, 73.90, 72.23, 89.93, 69.49, 91.45, 60.49, 83.60],
    ]
)  # fmt: skip
# Table 9, in the order of MODELS.
ECE_LINEAR = np.array([12.68, 14.15, 14.06, 15.68, 11.07, 8.45, 9.25, 9.71, 11.52, 7.05, 10.23, 8.69, 8.25, 10.35])
ECE_LINEAR_SCALED = np.array([2.72, 2.58, 3.71, 2.68, 2.85, 2.13, 2.67, 2.19, 2.81, 2.99, 1.93, 2.17, 2.16, 2.22])
ECE_FINETUNED = np.array([8.15, 8.21, 7.29, 8.37, 5.04, 5.29, 6.01, 6.06, 5.20, 5.32, 5.82, 4.94, 4.80, 4.48])
ECE_FINETUNED_SCALED = np.array([2.18, 2.28, 2.63, 2.12, 2.34, 2.46, 2.25, 2.45, 2.10, 2.23, 1.96, 1.85, 1.86, 1.90])
LPIPS_VGG = np.array([0.71, 0.74, 0.81, 0.72, 0.66, 0.70, 0.67, 0.68, 0.72, 0.60, 0.71, 0.67, 0.67, 0.55])
LPIPS_SQUEEZE = np.array([0.48, 0.53, 0.65, 0.50, 0.47, 0.47, 0.45, 0.46, 0.57, 0.39, 0.48, 0.48, 0.46, 0.37])
RED = np.array([3971, 4073, 4598, 3607, 3008, 3224, 3179, 3655, 3962, 2592, 3765, 3527, 3560, 2788])
GREEN = np.array([2734, 3044, 3954, 3070, 2807, 2667, 2514, 2855, 3775, 2403, 3268, 3170, 3186, 2917])
BLUE = np.array([3394, 3512, 4141, 3435, 3101, 3223, 2695, 3404, 4315, 2594, 3471, 3804, 3565, 2903])
ATTENTION = np.array([48.48, 47.92, 41.43, 48.12, 43.91, 46.07, 45.39, 47.91, 47.68, 43.73, 48.81, 48.69, 49.47, 43.88])


def _table(**changes: object) -> AccuracyTable:
    fields = {
        "models": MODELS, "datasets": DATASETS, "imagenet_M": IMAGENET, "accuracy_MD": LINEAR / 100, "unit": "percent"
    }  # fmt: skip
    return AccuracyTable(**(fields | changes))  # type: ignore[arg-type] # a mixed bag of fields


@pytest.mark.parametrize(
    ("measure", "printed"),
    [
        (logit(ECE_LINEAR / 100), -0.77),
        (logit(ECE_LINEAR_SCALED / 100), -0.59),
        (logit(ECE_FINETUNED / 100), -0.90),
        (logit(ECE_FINETUNED_SCALED / 100), -0.59),
        (logit(LPIPS_VGG), -0.69),
        (logit(LPIPS_SQUEEZE), -0.57),
        (RED, -0.56),
        (GREEN, -0.11),
        (BLUE, -0.22),
        (logit(ATTENTION / 100), 0.09),
    ],
    ids=["ece_lin", "ece_lin_scaled", "ece_ft", "ece_ft_scaled", "vgg", "squeeze", "red", "green", "blue", "attention"],
)
def test_table_9_of_ericsson_prints_these_correlations(measure: NDArray[np.float64], printed: float) -> None:
    # Rounded inputs, two printed decimals: 0.01.
    assert float(pearson(logit(IMAGENET), measure.astype(float))) == pytest.approx(printed, abs=0.01)


def test_ericssons_attention_correlates_at_0_38_with_mean_logit_transfer() -> None:
    got = analyze(_table(imagenet_M=ATTENTION / 100), num_resamples=500)
    assert got.correlation.pearson_r == pytest.approx(0.38, abs=0.01)


def test_the_json_has_what_the_interface_promises() -> None:
    got = json.loads(json.dumps(analyze(_table(), num_resamples=500).as_json(), allow_nan=False))
    assert {"pearson_r", "spearman_rho", "p_value", "r_interval", "n_models", "n_datasets"} <= set(got)
    assert (got["n_models"], got["n_datasets"]) == (14, 11)
    low, high = got["r_interval"]
    assert low < got["pearson_r"] < high
    assert all({"model", "adjusted_mean", "standard_error", "ties_with_best"} <= set(row) for row in got["models"])
    assert all({"dataset", "pearson_r"} <= set(row) for row in got["datasets"])
    assert got["correction"] == "sqrt"
    assert got["moved"] == []


def test_deepcluster_is_best_on_ericssons_linear_columns_and_swav_and_byol_are_tested_against_it() -> None:
    got = {row["model"]: row for row in analyze(_table(), num_resamples=500).as_json()["models"]}
    assert got["DeepCluster-v2"]["is_best"]
    assert got["DeepCluster-v2"]["p_value"] is None
    assert not got["PCL-v1"]["ties_with_best"]
    for row in got.values():
        assert row["is_best"] or row["ties_with_best"] == (row["p_value"] > 0.05)
        assert row["is_best"] or row["p_value_holm"] >= row["p_value"]


def test_adjusted_means_order_as_mean_log_odds_and_sum_to_zero() -> None:
    rows = analyze(_table(), num_resamples=500).as_json()["models"]
    by_mean = sorted(rows, key=lambda row: row["mean_log_odds"])
    assert all(a["adjusted_mean"] <= b["adjusted_mean"] for a, b in pairwise(by_mean))
    assert sum(row["adjusted_mean"] for row in rows) == pytest.approx(0, abs=1e-12)  # rounding of numbers of size 1


def test_the_order_of_models_and_datasets_changes_nothing() -> None:
    turned = _table(
        models=MODELS[::-1], datasets=DATASETS[::-1], imagenet_M=IMAGENET[::-1], accuracy_MD=LINEAR[::-1, ::-1] / 100
    )
    one, other = analyze(_table(), num_resamples=500), analyze(turned, num_resamples=500)
    assert one.correlation.pearson_r == pytest.approx(other.correlation.pearson_r)
    assert one.adjusted.standard_error_M == pytest.approx(other.adjusted.standard_error_M[::-1])
    assert {d: c.pearson_r for d, c in one.by_dataset.items()} == pytest.approx(
        {d: c.pearson_r for d, c in other.by_dataset.items()}
    )


def test_a_perfect_score_is_flagged_with_its_cell() -> None:
    accuracy = LINEAR / 100
    accuracy[10, 6] = 1.0
    got = analyze(_table(accuracy_MD=accuracy), num_resamples=500).as_json()
    assert got["moved"] == [{"model": "BYOL", "dataset": "flowers"}]
    assert "moved inwards" in got["log_odds_rule"]


def test_small_and_large_datasets_are_apart() -> None:
    got = analyze(_table(), num_resamples=500).as_json()["by_size"]
    assert got["large"]["datasets"] == ["cifar10", "cifar100", "food101", "sun397"]
    assert len(got["small"]["datasets"]) == 7


def test_one_dataset_is_analysed_without_errors_over_datasets() -> None:
    got = analyze(_table(datasets=("cars",), accuracy_MD=LINEAR[:, [2]] / 100), num_resamples=500).as_json()
    assert got["models"][0]["standard_error"] is None
    assert got["r_interval_datasets"] is None
    assert sorted(str(row["ties_with_best"]) for row in got["models"]) == ["None"] * 13 + ["True"]
