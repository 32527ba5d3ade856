"""The counts of steps and products run on small sizes; their values belong to the report."""

import pytest
import solver_products


@pytest.mark.slow
def test_every_path_has_a_row_and_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    solver_products.main(["--scale", "0.05"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 + 2 + 1 + 2 * 3
    for line in lines[2:]:
        _, _, strengths, certified, *_ = line.split("|")
        assert strengths == certified
