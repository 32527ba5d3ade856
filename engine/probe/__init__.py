"""Fit linear probes on stored features along whole regularisation paths, each strength certified."""
