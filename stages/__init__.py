"""The steps of a build, each run inside its own environment."""
