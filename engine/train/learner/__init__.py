"""A network, its loss and its optimiser: one update after another."""
