"""One training run in its folder: begun, resumed, interrupted, and how it ended."""
