"""Keeps ultralytics offline and still; import this before ultralytics.

It looks for the internet at import, installs missing packages by itself, sends usage events and
keeps settings in the home folder; a step does none of that.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.update(
    YOLO_OFFLINE="1",
    YOLO_AUTOINSTALL="0",
    YOLO_VERBOSE="0",
    YOLO_CONFIG_DIR=str(Path(tempfile.gettempdir()) / "ultralytics"),
)
