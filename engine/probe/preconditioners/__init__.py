"""What stands in for the Hessian's inverse in conjugate gradients."""
