"""Imports go one way, stages know nothing of the driver, and the command line starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import ROOT

#: From the top down: a package imports only from rows below its own. docs/architecture.md says what
#: belongs in which.
TIERS = (
    ("cli",),
    ("release", "emulator", "monitor"),
    ("device",),
    ("pipeline",),
    ("report",),
    ("plan",),
    ("executors",),
    ("store",),
    ("system",),
    ("errors", "paths"),
)
#: What the driver may load only when a step is to run or there is something to show.
HEAVY = (
    *("docker", "yaml", "rich", "requests", "uv", "numpy", "jinja2"),
    *("cryptography", "cyclonedx", "google", "tomli_w"),
    *("serial", "xmodem", "starlette", "uvicorn", "websockets"),
)


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imported(path: Path) -> set[str]:
    """All modules of this repository that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if _is_module(inner) else node.module)
    return {name for name in names if name.split(".")[0] in ("kiln", "stages")}


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _package(module: str) -> str | None:
    """The package or top-level module below ``kiln`` that a module is in; None for all else."""
    parts = module.split(".")
    return parts[1] if parts[0] == "kiln" and len(parts) > 1 else None


def test_the_driver_imports_from_the_top_down() -> None:
    rows = {package: row for row, packages in enumerate(TIERS) for package in packages}
    wrong = []
    for module, path in _modules("kiln"):
        own = _package(module)
        if own in (None, "__main__"):
            continue
        for imported in sorted(_imported(path)):
            other = _package(imported)
            if other not in (None, own) and rows[str(other)] <= rows[str(own)]:
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_the_table_names_every_package() -> None:
    there = {path.stem for path in (ROOT / "kiln").iterdir() if not path.name.startswith("__")}
    assert there == {package for packages in TIERS for package in packages}


def test_every_package_says_what_belongs_in_it() -> None:
    packages = [path for top in ("kiln", "stages") for path in (ROOT / top).rglob("__init__.py")]
    silent = [
        path.parent.relative_to(ROOT).as_posix()
        for path in packages
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def _is_contract(module: str) -> bool:
    """What lies directly in ``stages/``, and the results: shared by all steps and the driver."""
    parts = module.split(".")
    is_module = len(parts) == 2 and (ROOT / "stages" / f"{parts[1]}.py").is_file()
    return parts[0] == "stages" and (is_module or parts[1:2] in ([], ["results"]))


def test_the_driver_imports_the_contract_and_never_a_step() -> None:
    used = {name for _, path in _modules("kiln") for name in _imported(path)}
    assert all(_is_contract(name) for name in used if name.startswith("stages"))


def test_a_step_imports_the_contract_and_its_own_environment_alone() -> None:
    wrong = []
    for module, path in _modules("stages"):
        own = ".".join(module.split(".")[:2])
        for name in sorted(_imported(path)):
            if not _is_contract(name) and not f"{name}.".startswith(f"{own}."):
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_the_simulated_npu_needs_numpy_alone() -> None:
    """Others can take it out and use it."""
    wrong = []
    for path in sorted((ROOT / "stages" / "vela" / "npu").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        for module in filter(None, modules | names):
            own = module.startswith("stages.vela.npu.")
            if not own and module.split(".")[0] not in {"numpy", *sys.stdlib_module_names}:
                wrong.append(f"{path.name} imports {module}")
    assert not wrong


def test_the_contract_is_standard_library_only() -> None:
    for module, path in _modules("stages"):
        if not _is_contract(module):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert names - {"stages"} <= sys.stdlib_module_names, module


def test_only_one_module_starts_processes() -> None:
    starters = [
        module
        for module, path in _modules("kiln")
        if any(
            isinstance(node, ast.Import) and any(alias.name == "subprocess" for alias in node.names)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    ]
    assert starters == ["kiln.system.process"]


def test_the_command_line_starts_light() -> None:
    code = f"import sys, kiln.cli.main; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
