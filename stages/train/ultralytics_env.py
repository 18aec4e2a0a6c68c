"""Sets the variables that ultralytics and torch read at import; import this before ultralytics.

Left alone, ultralytics tests the internet connection, installs missing packages, sends usage events
and keeps settings in the home folder; a step does none of that. torch's threads wait for each other
without spinning: on a machine with other work, spinning makes a training three times slower.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.update(
    YOLO_OFFLINE="1",
    YOLO_AUTOINSTALL="0",
    YOLO_VERBOSE="0",
    OMP_WAIT_POLICY="PASSIVE",
    YOLO_CONFIG_DIR=str(Path(tempfile.gettempdir()) / "ultralytics"),
)
