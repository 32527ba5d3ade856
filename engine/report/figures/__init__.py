"""Findings in, figures out."""
