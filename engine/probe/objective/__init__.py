"""The objective of a linear probe: losses, features in principal axes, passes over the data, and the duality gap."""
