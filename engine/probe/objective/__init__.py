"""The objective of a linear probe: its losses, its passes over the data, and how far it is from its optimum."""
