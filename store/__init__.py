"""The feature store and the trial log, on disk or in a bucket; needs numpy and zarr, not torch."""
