"""Search a grid of training runs: choose the best on val, train it again, and keep its test score as a trial."""
