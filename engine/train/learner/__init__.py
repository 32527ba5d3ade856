"""Update a network: its loss, optimiser and schedule."""
