"""Encoded images in, resized uint8 pixels out: Pillow, DALI, and DALI on a GPU."""
