"""Decodes what models give as the firmware does, and measures their accuracy."""
