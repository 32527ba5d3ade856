import numpy as np
import pytest

from penultimate.engine.analysis.statistics.adjusted import adjusted_accuracies
from penultimate.store.errors import InputError


def test_two_models_and_two_datasets_by_hand() -> None:
    # Means of the columns: 2 and 5. Adjusted: (-1, -2) and (1, 2). Mean 1.5, standard deviation sqrt(1/2), error 1/2.
    got = adjusted_accuracies(np.array([[1.0, 3.0], [3.0, 7.0]]))
    assert got.adjusted_MD.tolist() == [[-1, -2], [1, 2]]
    assert got.mean_M.tolist() == [-1.5, 1.5]
    assert got.standard_error_M == pytest.approx(0.5 * np.sqrt(2))
    assert got.factor == pytest.approx(np.sqrt(2))


def test_the_printed_factor_is_the_square_of_moreys() -> None:
    table = np.random.default_rng(0).normal(size=(16, 12))
    ours, printed = (adjusted_accuracies(table, correction=name) for name in ("sqrt", "printed"))
    assert printed.factor == pytest.approx(16 / 15)
    assert printed.factor == pytest.approx(ours.factor**2)
    assert printed.standard_error_M / ours.standard_error_M == pytest.approx(ours.factor)


def test_a_harder_dataset_changes_nothing() -> None:
    table = np.random.default_rng(0).normal(size=(5, 4))
    harder = table - np.array([0.0, 3.0, 0.0, -7.0])
    # Rounding of numbers of size 10.
    assert adjusted_accuracies(harder).mean_M == pytest.approx(adjusted_accuracies(table).mean_M, abs=1e-12)
    assert adjusted_accuracies(harder).standard_error_M == pytest.approx(adjusted_accuracies(table).standard_error_M)


def test_moreys_factor_makes_the_variance_unbiased() -> None:
    # Independent noise of variance 1: after the models' mean is taken out, (M - 1) / M of it is left, and Morey's
    # factor puts it back. 4,000 tables of 3 x 12: the mean of 12,000 variances with 11 degrees of freedom is known to
    # sqrt(2 / 11 / 12,000) = 0.4 %; 2 % is five times that (the three of a table are not independent).
    rng = np.random.default_rng(0)
    errors = [adjusted_accuracies(rng.normal(size=(3, 12))).standard_error_M for _ in range(4_000)]
    assert np.mean(np.square(errors)) * 12 == pytest.approx(1.0, rel=0.02)


def test_one_dataset_has_no_standard_error() -> None:
    assert np.isnan(adjusted_accuracies(np.array([[1.0], [2.0]])).standard_error_M).all()


def test_a_missing_cell_is_refused() -> None:
    with pytest.raises(InputError, match="1 missing"):
        adjusted_accuracies(np.array([[1.0, np.nan], [2.0, 3.0]]))


def test_an_unknown_correction_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="sqrt"):
        adjusted_accuracies(np.ones((2, 2)), correction="morey")  # type: ignore[arg-type] # what a user may type
