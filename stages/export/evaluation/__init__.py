"""Runs models on images, decodes as the firmware does, and measures accuracy."""
