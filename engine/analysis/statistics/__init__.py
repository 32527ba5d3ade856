"""Statistics on plain arrays: intervals, paired tests, correlations and log odds."""
