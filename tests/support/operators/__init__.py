"""Small int8 networks that are compiled for an Ethos-U55, and what they should give.

Sizes and widths are odd on purpose: a brick of the NPU's own format is 16 channels wide, and its
blocks are multiples of 2 to 16.
"""
