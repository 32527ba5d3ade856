"""Linear probes on stored features: whole regularisation paths, each strength certified."""
