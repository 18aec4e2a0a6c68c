"""Attached boards: ports, serial links, boot loaders, the AT protocol, flashing.

Imports pipeline and below.
"""
