"""esptool's logger, as far as one of Kiln's own takes its place."""

from __future__ import annotations

from typing import Any


class TemplateLogger:
    """What a logger of one's own is derived from."""


class _Log:
    """Hands on to the logger that was set; before one is, nothing may be said."""

    def __init__(self) -> None:
        self._logger: Any = None

    def set_logger(self, logger: TemplateLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)


log = _Log()
