"""A board without a board: its boot loader, firmware and camera behind a pseudo-terminal.

Imports device and below.
"""
