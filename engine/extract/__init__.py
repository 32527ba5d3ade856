"""Extract features: embed images with backbones, store the features, and measure their accuracy and speed."""
