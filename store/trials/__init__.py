"""Trials (fitted models with their scores) in an append-only log."""
