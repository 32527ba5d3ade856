"""Compare stored features with each other, without fitting anything to them."""
