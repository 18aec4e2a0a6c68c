"""The live page of what a board sees, and recordings of it as data sets.

Imports device and below.
"""
