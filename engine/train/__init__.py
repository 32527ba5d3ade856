"""Train networks: one Recipe for each run, and one Trial for each grid of runs."""
