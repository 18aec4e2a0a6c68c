"""One checkout, one undisturbed build, and a fresh user for every fault."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.bench import CALLS, Victim, Whole, injected, make_checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("chaos") / "checkout")


@pytest.fixture(scope="session")
def whole(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What an undisturbed build gives."""
    victim = Victim(checkout, tmp_path_factory.mktemp("whole"))
    done = victim.builds()
    assert done.code == 0, done.said
    files = {key: document["files"] for key, document in victim.documents().items()}
    return Whole(result=victim.result(), files=files)


@pytest.fixture
def victim(checkout: Path, tmp_path: Path, whole: Whole) -> Iterator[Victim]:
    victim = Victim(checkout, tmp_path, whole)
    yield victim
    victim.clears_up()


@pytest.fixture(scope="session")
def calls(checkout: Path, whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often the busiest thread of an undisturbed build makes each system call of CALLS."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: no fault can be put into a system call")
    victim = Victim(checkout, tmp_path_factory.mktemp("traced"), whole)
    made = Counter(re.findall(r"^(\d+) +(\w+)\(", victim.traces(*CALLS), re.MULTILINE))
    return {
        call: max(count for (_thread, each), count in made.items() if each == call)
        for call in sorted({call for _thread, call in made})
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if injected:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(injected).items()))
        terminalreporter.write_line(f"{len(injected)} faults were injected: {kinds}")
