"""The rows that extractions embedded: their records, how they are found by content, and how they are read."""
