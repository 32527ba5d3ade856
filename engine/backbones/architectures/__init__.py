"""Create networks by name: timm's, and those of the paper that timm does not have."""
