"""Look after a store: verify it, remove what nobody needs, tell what sets share, and upgrade older formats."""
