"""Tables of TOML and JSON to frozen dataclasses: types kept, unknown keys refused by name."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from kiln.errors import RequestError, UnknownName

Record = TypeVar("Record")

_WORDS: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


#: Python refuses to print numbers of more than some thousand digits, so none may come this far.
_MAX_INT = 1 << 63
#: A long settings file has some kilobytes; the parser takes minutes over a few megabytes.
_MAX_TOML_BYTES = 64 << 10


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises RequestError with the line that does not parse."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_TOML_BYTES + 1).decode()
    except FileNotFoundError as error:
        raise RequestError(f"{path} does not exist", hint="check the path you passed") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    if len(text) > _MAX_TOML_BYTES:
        raise RequestError(
            f"{path} is larger than {_MAX_TOML_BYTES >> 10} KiB: that is no settings file",
            hint="check the path you passed",
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of a number too long to read, too
        raise RequestError(
            f"{path} is not valid TOML: {error}", hint="https://toml.io shows the form"
        ) from error


def read_record(cls: type[Record], table: object, where: str) -> Record:
    """Build a dataclass from a table; raises RequestError on a wrong type or a missing key.

    Nested dataclasses are nested tables, ``tuple[X, ...]`` is an array and ``Mapping[str, X]``
    a table with free keys.
    """
    if not isinstance(table, Mapping):
        raise RequestError(f"{where} must be a table")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for key in table:
        if key not in fields:
            raise UnknownName("key", key, fields, where=where)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _read(hints[name], table[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RequestError(f"{where} lacks the key {name!r}")
    return cls(**values)


def _read(hint: Any, value: object, where: str) -> Any:
    if isinstance(value, int) and abs(value) >= _MAX_INT:
        raise RequestError(f"{where} is too large a number", hint="use a smaller one")
    if dataclasses.is_dataclass(hint):
        return read_record(typing.cast(Any, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _read_any(value, where)
    if origin is typing.Literal:
        return _read_choice(arguments, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None  # of JSON: TOML has no null
        inner = next(argument for argument in arguments if argument is not type(None))
        return _read(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RequestError(f"{where} must be a list")
        return tuple(_read(arguments[0], item, where) for item in value)
    if origin is not None:
        if not isinstance(value, dict):
            raise RequestError(f"{where} must be a table")
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _read_plain(hint, value, where)


def _read_choice(choices: tuple[Any, ...], value: object, where: str) -> Any:
    if value not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise RequestError(f"{where} is {value!r:.200}", hint=f"it must be one of: {known}")
    return value


def _read_any(value: object, where: str) -> Any:
    """What a build's recipe can repeat: no dates, no inf, no nan."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_read(Any, item, where) for item in value]
    if isinstance(value, dict):
        return {key: _read(Any, item, f"{where}.{key}") for key, item in value.items()}
    if type(value) not in _WORDS or (isinstance(value, float) and not math.isfinite(value)):
        raise RequestError(f"{where} is {value}", hint="it must be text, a number, true or false")
    return value


def _read_plain(hint: type, value: object, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (isinstance(value, float) and not math.isfinite(value)):
        raise RequestError(f"{where} is {value!r:.200}", hint=f"it must be {_WORDS[hint]}")
    return value
