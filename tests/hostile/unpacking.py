"""Run in the train environment: what becomes of fetched archives.

Argv: a folder. Prints for each <name>.zip in it what was said, or the files that were taken.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stages.contract import StepFailed
from stages.train.dataset.archive import unpack
from stages.train.dataset.layout import normalise


def answer(path: Path) -> str | list[str]:
    # Under a folder called images, as a home may be: labels are not to be looked for beside it.
    place = path.parent / "images" / path.stem
    try:
        unpack(path, place / "unpacked", path.name)
        normalise(place / "unpacked", place / "data", None)
    except StepFailed as error:
        return error.message
    return sorted(
        each.relative_to(place / "data").as_posix()
        for each in (place / "data").rglob("*")
        if each.is_file()
    )


sys.stdout.write(
    json.dumps({path.stem: answer(path) for path in sorted(Path(sys.argv[1]).glob("*.zip"))})
)
