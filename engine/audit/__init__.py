"""Audit a dataset by its stored features and trials: copies, leaks, doubtful labels, outliers. No image is decoded."""
