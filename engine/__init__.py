"""The parts of penultimate that compute: images, backbones, extraction, probes, training and analysis."""
