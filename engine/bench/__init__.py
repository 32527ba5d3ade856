"""Measure what users call: one timer, one form of report, and a file for each verb of ``penultimate bench``."""
