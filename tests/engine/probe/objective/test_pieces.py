"""Products are those of plain matrices, in whatever pieces and order they are made."""

import pytest
import torch

from penultimate.engine.probe.objective import pieces, rotated_features
from penultimate.engine.probe.objective.pieces import FEWEST, NARROW, SCORE_ROWS, gathered_rows, row_products
from penultimate.engine.probe.objective.rotated_features import RotatedFeatures

# Shapes: N samples, M columns of scores, R columns of features.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, FEWEST, NARROW - 1, NARROW, 130])
@pytest.mark.parametrize("rows", [1, SCORE_ROWS - 1, SCORE_ROWS, 2 * SCORE_ROWS + 7])
@pytest.mark.parametrize("intel", [True, False])
def test_scores_and_what_is_gathered_of_them_are_plain_products(
    intel: bool, rows: int, columns: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "is_intel", lambda: intel)
    generator = torch.Generator().manual_seed(0)
    matrix_NR = torch.randn(rows, 40, generator=generator).to(dtype)
    weight_MR = torch.randn(columns, 40, generator=generator).to(dtype)
    values_MN = torch.randn(columns, rows, generator=generator).to(dtype)
    for found, left, right in (
        (row_products(weight_MR, matrix_NR), weight_MR.double(), matrix_NR.double().T),
        (gathered_rows(values_MN, matrix_NR), values_MN.double(), matrix_NR.double()),
    ):
        assert found.is_contiguous()
        assert_product(found, left, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, NARROW])
def test_scores_are_written_where_they_are_wanted_and_nowhere_else(columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix_NR = torch.randn(SCORE_ROWS + 7, 40, generator=generator).to(dtype)
    weight_MR = torch.randn(columns, 40, generator=generator).to(dtype)
    wider = torch.zeros(columns, 2 * len(matrix_NR), dtype=dtype)
    out_MN = wider[:, 3 : 3 + len(matrix_NR)]
    assert row_products(weight_MR, matrix_NR, out_MN=out_MN) is out_MN
    assert_product(out_MN, weight_MR.double(), matrix_NR.double().T)
    assert not wider[:, :3].any()
    assert not wider[:, 3 + len(matrix_NR) :].any()


def assert_product(found: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Check that this is left @ right, to the rounding of any order of summation (Higham 2002, section 3.1)."""
    error, terms = (found.double() - left @ right).abs(), left.shape[1]
    assert (error <= (terms + 1) * torch.finfo(found.dtype).eps * (left.abs() @ right.abs())).all()


def test_few_rows_are_gathered_from_a_copy_by_columns_and_many_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    few = RotatedFeatures(features_ND, sample_weight_N=None, dtype=torch.float32)
    assert few.by_columns_NR.T.is_contiguous()
    assert torch.equal(few.by_columns_NR, few.matrix_NR)
    monkeypatch.setattr(rotated_features, "FEW_ROWS", 199)
    many = RotatedFeatures(features_ND, sample_weight_N=None, dtype=torch.float32)
    assert many.by_columns_NR is many.matrix_NR
