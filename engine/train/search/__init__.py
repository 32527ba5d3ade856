"""A grid of training runs: the best chosen on val, trained again, its test score kept as a trial."""
