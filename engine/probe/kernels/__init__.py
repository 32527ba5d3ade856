"""Compiled passes over features, for families of processors that gain by them."""
