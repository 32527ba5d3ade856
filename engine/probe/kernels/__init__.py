"""Compiled kernels for families of processors that gain by them, behind the Design protocol."""
