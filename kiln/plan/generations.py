"""Generations of a firmware: from the tables of a target's file to one whole table for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiln.errors import RequestError, UnknownName

#: The form of YOLOv8 as ultralytics exports it: one output, decoded in the graph.
DECODED = "yolov8-decoded"


def generation_tables(table: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A whole table for each generation of ``[firmware]``, oldest first, with the tasks it has.

    What ``[firmware]`` and ``[tasks]`` say holds for every generation that says nothing else. A
    firmware without generations is one by itself.
    """
    firmware, tasks = _table(table, "firmware", where), _table(table, "tasks", where)
    common = {key: value for key, value in firmware.items() if key != "generations"}
    listed = firmware.get("generations", [{}])
    if not isinstance(listed, list) or not listed:
        raise RequestError(f"{where}: firmware.generations must be a list of tables")
    found = [_merged(common, each, tasks, where) for each in listed]
    names = [str(each.get("generation", "")) for each in found]
    if len(found) > 1 and (len(set(names)) < len(names) or not all(names)):
        raise RequestError(
            f"{where}: every generation of the firmware needs a name of its own",
            hint='such as generation = "2024-10"',
        )
    return found


def _merged(
    common: Mapping[str, Any], own: object, tasks: Mapping[str, Any], where: str
) -> dict[str, Any]:
    if not isinstance(own, Mapping):
        raise RequestError(f"{where}: firmware.generations must be a list of tables")
    table = {**common, **own}
    changed, flaws = _table(table, "tasks", where, {}), _table(table, "flaws", where, {})
    for name in changed:
        if name not in tasks:
            raise UnknownName("task", name, tasks, where=f"{where}: firmware.generations")
    table["tasks"] = {
        name: {**_table(tasks, name, where), **_table(changed, name, where, {})}
        for name in tasks
        if name not in flaws and _is_tried(tasks[name], table.get("forms"))
    }
    if table.get("generation"):
        table["name"] = f"{table.get('name', '')} ({table['generation']})"
    return table


def _is_tried(facts: object, tried: object) -> bool:
    """Whether the firmware tries the form of a task; it has every task if it names no forms."""
    forms = facts.get("forms") if isinstance(facts, Mapping) else None
    if not (isinstance(forms, list) and isinstance(tried, list) and forms and tried):
        return True
    return forms[0] in tried


def _table(
    table: Mapping[str, Any], name: str, where: str, default: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    found = table.get(name, default)
    if not isinstance(found, Mapping):
        raise RequestError(f"{where}: {name} must be a table")
    return found
