"""The live page of a board: frames, detections and settings, and recordings as data sets.

Imports device and below.
"""
