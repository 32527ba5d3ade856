from interval_coverage import report


def test_every_line_of_the_report_has_its_monte_carlo_error() -> None:
    lines = [line for line in report(studies=2, resamples=50, seed=0).splitlines() if line.startswith("| ")]
    figures = [line for line in lines if "%" in line.rsplit("|", 2)[1]]
    assert len(figures) > 50
    assert all("±" in line for line in figures)
