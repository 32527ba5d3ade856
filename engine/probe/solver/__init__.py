"""Newton's method with conjugate gradients, and the order in which the strengths of a path are solved."""
