"""Nearest neighbours of features: exactly, or among candidates of a projection, and the near-duplicates they tell."""
