"""What lists the images of a source: folders, manifests, tars, tables and arrays."""
