"""Readouts: which vectors of one pass of a network are kept as features."""
