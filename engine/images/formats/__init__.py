"""Load image sets from folders, manifests, tars, tables and arrays."""
