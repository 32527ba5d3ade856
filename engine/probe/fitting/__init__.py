"""Fit paths on features in memory or streamed from a store."""
