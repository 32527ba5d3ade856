"""Images and backbones in, stored features out; and how near and how fast that is."""
