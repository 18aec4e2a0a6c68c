"""A board without a board: its bootloader, firmware and camera behind a pseudo-terminal.

Imports device and below.
"""
