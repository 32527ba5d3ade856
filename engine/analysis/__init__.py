"""From trials to answers. Reads trials only."""
