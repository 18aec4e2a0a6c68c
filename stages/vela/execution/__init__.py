"""Runs files as a board does, and holds what Vela compiled against what it was compiled from."""
