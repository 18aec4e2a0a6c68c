"""Marks the fields of a result that describe the host on which the step ran, not its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

#: Metadata of such a field, whose type allows None: ``dataclasses.field(metadata=OF_HOST)``.
OF_HOST: Mapping[str, bool] = {"of_host": True}

AnyRecord = TypeVar("AnyRecord")


def without_host(record: AnyRecord) -> AnyRecord:
    """The record with None in all fields that describe a host, at any depth of nested records."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(record):  # type: ignore[arg-type]  # any dataclass
        value = getattr(record, field.name)
        if "of_host" in field.metadata:
            changes[field.name] = None
        elif dataclasses.is_dataclass(value):
            changes[field.name] = without_host(value)
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]
