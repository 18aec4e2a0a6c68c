"""Where the code under test lies, and the folder of its environments."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("KILN_HOME") or ROOT / ".kiln").absolute()
