"""Ordered image samples, how they are preprocessed, and what decodes them."""
