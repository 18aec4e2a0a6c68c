"""Draws the demo data set: people with keypoints, and shapes."""
