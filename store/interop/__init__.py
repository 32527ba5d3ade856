"""Hand features to other programs: plain files, an xarray Dataset, batches of CuPy."""
