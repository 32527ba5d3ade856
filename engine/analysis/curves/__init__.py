"""Accuracy against images a class, and against updates of training."""
