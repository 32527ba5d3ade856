"""Which images an update sees, and how each is cropped, resized and flipped."""
