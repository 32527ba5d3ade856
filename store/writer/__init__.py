"""Write one key of a store: its columns and plan, its shards, and what makes it complete."""
