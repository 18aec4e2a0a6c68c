"""Kiln: from a data set to the model file that a small board runs."""

__version__ = "0.1.0"
