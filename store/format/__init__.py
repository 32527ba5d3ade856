"""What lies where in a store, in which shapes, under which names and digests."""
