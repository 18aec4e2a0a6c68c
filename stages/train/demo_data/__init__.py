"""Draws the demo data sets, the same bytes on every host."""
