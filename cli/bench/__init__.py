"""``penultimate bench``: measure what users call on their own machine, a file for each verb of the group."""
