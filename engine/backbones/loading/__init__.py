"""Find and read the weights of networks: published, from packages, from files, drawn at random."""
