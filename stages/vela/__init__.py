"""Steps of the vela environment (Arm's Ethos-U compiler, TensorFlow Lite Micro)."""

from __future__ import annotations

import os

# Before numpy is imported. Images are shared among processes; threads of its products besides would
# wait for each other spinning, ten times as long on a machine with other work.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
