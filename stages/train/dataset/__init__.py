"""Reads data sets: image lists, labels, data.yaml, archives, and images as the board sees them."""
