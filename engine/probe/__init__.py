"""Regularisation paths of linear probes on stored features. Never sees an image."""
