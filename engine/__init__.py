"""Read images, run backbones, extract features, fit probes, train networks, and analyse the trials."""
