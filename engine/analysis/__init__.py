"""Analyse trials: intervals, comparisons, correlations and curves. Nothing but trials is read."""
