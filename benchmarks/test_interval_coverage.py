from interval_coverage import report


def test_every_simulation_has_its_fraction_and_monte_carlo_error() -> None:
    found = report(studies=2, resamples=50, seed=0)
    covered, alarms = found.tables.values()
    assert len(covered) > 50
    assert len(alarms) == 6
    assert all("±" in row["fraction"] for row in (*covered, *alarms))
    assert len(found.results) == len(covered) + len(alarms)
    assert {row["fraction"] for row in found.results} <= {0.0, 0.5, 1.0} | {
        row["fraction"]
        for row in found.results
        if "adjusted" in row["what"]  # a mean over models
    }
