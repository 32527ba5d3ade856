"""VOC 2007's difficult objects are left out where a class is scored and absent where it is fitted."""

import numpy as np
import pytest

from penultimate.engine.analysis.statistics.compare import all_class_differences
from penultimate.engine.metrics import map11
from penultimate.engine.probe.fitting.fit import check_labels, fit_path
from penultimate.engine.probe.fitting.fit_settings import FitSettings
from penultimate.engine.probe.path import RegularizationPath
from penultimate.store.errors import InputError
from penultimate.store.labels import ABSENT, PRESENT, UNCOUNTED

# Shapes: N samples, K classes.


def test_map11_of_a_class_is_that_of_its_counted_samples_alone() -> None:
    rng = np.random.default_rng(0)
    scores_NK = rng.normal(size=(40, 2))
    labels_NK = rng.integers(2, size=(40, 2))
    marked_NK = labels_NK.copy()
    marked_NK[:7, 0] = UNCOUNTED
    alone = [map11(scores_NK[7:, :1], labels_NK[7:, :1]), map11(scores_NK[:, 1:], labels_NK[:, 1:])]
    assert map11(scores_NK, marked_NK) == pytest.approx(np.mean(alone))
    assert map11(scores_NK, marked_NK) != map11(scores_NK, labels_NK)


def test_what_an_uncounted_sample_scores_does_not_matter() -> None:
    scores_NK = np.array([[0.9], [0.8], [0.7]])
    labels_NK = np.array([[PRESENT], [UNCOUNTED], [PRESENT]])
    assert map11(scores_NK, labels_NK) == 1.0
    scores_NK[1] = 5.0
    assert map11(scores_NK, labels_NK) == 1.0


def test_a_class_shown_by_difficult_objects_alone_has_no_recall() -> None:
    with pytest.raises(InputError, match="at least one positive"):
        map11(np.zeros((2, 1)), np.array([[UNCOUNTED], [ABSENT]]))


def test_in_fitting_an_uncounted_sample_does_not_have_the_class() -> None:
    rng = np.random.default_rng(0)
    features_ND = rng.normal(size=(30, 4)).astype(np.float32)
    absent_NK = rng.integers(2, size=(30, 2)).astype(np.uint8)
    marked_NK = np.where(rng.random((30, 2)) < 0.2, np.where(absent_NK == ABSENT, UNCOUNTED, absent_NK), absent_NK)
    assert (marked_NK == UNCOUNTED).any()
    path = RegularizationPath(l2=(1.0,))
    ((marked,), (absent,)) = (
        fit_path(features_ND, labels_NK, FitSettings(num_classes=2, path=path, loss="logistic"))
        for labels_NK in (marked_NK.astype(np.uint8), absent_NK)
    )
    np.testing.assert_array_equal(marked.weight_KD, absent.weight_KD)
    with pytest.raises(InputError, match="of 0, 1 and 2"):
        check_labels(absent_NK + 2, 30, 2, multi_label=True)


def test_an_uncounted_entry_counts_for_neither_network() -> None:
    scores_a, scores_b = np.array([[1.0, 1.0]]), np.array([[-1.0, -1.0]])
    assert all_class_differences(scores_a, scores_b, np.array([[PRESENT, UNCOUNTED]])).tolist() == [1.0]
    assert all_class_differences(scores_a, scores_b, np.array([[PRESENT, PRESENT]])).tolist() == [1.0]
    assert all_class_differences(scores_a, scores_b, np.array([[PRESENT, ABSENT]])).tolist() == [0.0]
