"""Decoders: they turn encoded images into resized uint8 pixels, by Pillow, by DALI, or by DALI on a GPU."""
