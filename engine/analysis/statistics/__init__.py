"""Numbers in, numbers out: intervals, paired tests, correlations and log odds."""
