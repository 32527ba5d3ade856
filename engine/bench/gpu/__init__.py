"""The check of a machine with a GPU: steps in processes of their own, and the command that runs them."""
