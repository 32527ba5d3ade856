"""What lies on disk: numpy and zarr, no torch."""
