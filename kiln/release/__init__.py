"""Release archives: written, verified, signed, with provenance and SBOMs.

Imports pipeline and below.
"""
