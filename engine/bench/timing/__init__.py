"""The one timer of all benchmarks and the one form of their reports, and what compares two of them."""
