"""Attached boards: ports, serial links, bootloaders, the AT protocol, flashing.

Imports pipeline and below.
"""
