"""Each step for real, in its own environment."""
