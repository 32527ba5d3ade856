"""Preconditioners of conjugate gradients: approximate inverses of the Hessian."""
