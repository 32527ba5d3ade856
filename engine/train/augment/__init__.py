"""Choose the images of an update, and crop, resize and flip them."""
