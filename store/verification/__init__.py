"""Verify what a store holds: sets, rows, and keys of format 1, each against the checksums it was written with."""
