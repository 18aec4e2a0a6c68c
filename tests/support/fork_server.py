"""Runs programs as forks of one interpreter, which has imported the libraries that they need.

Argv: modules to import. Stdin: one JSON object a line, a ``Program``. Stdout: the exit code of
each, negative for a signal, when it has ended. Standard library only: it runs in the stage
environments.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypedDict


class Program(TypedDict):
    """``argv`` is what follows ``python``: ``-m`` or ``-c``, a module or code, and arguments.

    ``variables`` are added to those of the server; ``files`` are for its descriptors 0, 1 and 2;
    ``cpus`` are the processors that it may use.
    """

    argv: Sequence[str]
    variables: Mapping[str, str]
    folder: str
    files: Sequence[str]
    cpus: Sequence[int]


def serve() -> None:
    """Import the modules, then run programs one after the other until stdin ends."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        program: Program = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(program)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(program: Program) -> NoReturn:
    """Run a program in this process, as the interpreter would that is started for it."""
    code = 1
    try:
        for number, name in enumerate(program["files"]):
            handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
            os.dup2(handle, number)
            os.close(handle)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        os.environ.update(program["variables"])
        os.sched_setaffinity(0, program["cpus"])
        os.chdir(program["folder"])
        tempfile.tempdir = None
        kind, what, *arguments = program["argv"]
        sys.argv = [kind, *arguments]
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<test>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
