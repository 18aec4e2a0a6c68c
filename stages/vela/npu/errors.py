"""Why a command stream cannot be run."""

from __future__ import annotations


class NpuError(Exception):
    """One sentence: what in the stream is wrong or unknown, and where."""
