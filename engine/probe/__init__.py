"""Classify stored features by linear probes, whole paths of certified strengths, or by nearest neighbours."""
