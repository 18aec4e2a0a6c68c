"""Somebody with files that mean harm, and the environments of the other tests."""

from __future__ import annotations

from tests.integration.conftest import env_python, environments, local_executor, run_step, user

__all__ = ["env_python", "environments", "local_executor", "run_step", "user"]
