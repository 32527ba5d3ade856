"""Draw the figures of Kornblith et al. 2019 from findings."""
