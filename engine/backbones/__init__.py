"""Load pretrained networks and use them as feature extractors."""
