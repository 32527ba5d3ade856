"""What computes: images, backbones, extraction, probes, analysis."""
