"""Training networks: one Recipe a run, a grid of runs a Trial; sibling of the probe."""
