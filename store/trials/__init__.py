"""Fitted things with their scores, in an append-only log."""
