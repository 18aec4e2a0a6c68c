"""`kiln monitor --demo`: a built model on the emulated board, all the way to a browser's line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.user import TINY, User

_PATIENCE_S = 60.0


def _messages(live: ClientConnection) -> Iterator[Any]:
    """What a browser is told: JSON as it is, images as bytes."""
    while True:
        message = live.recv(timeout=_PATIENCE_S)
        yield message if isinstance(message, bytes) else json.loads(message)


@pytest.mark.slow
def test_the_demo_shows_a_built_model_at_work(user: User) -> None:
    """A model of one epoch may see nothing; what it finds is another test's matter."""
    user.builds(*TINY)
    build = "build/grove-v2/yolov8n-pose-demo-64"
    command = ("monitor", "--demo", "--build", build, "--executor", "local", "--no-open")
    with user.starts(*command) as process:
        try:
            assert process.stdout is not None
            host = urlsplit(process.stdout.readline().strip()).netloc
            origin = {"Origin": f"http://{host}"}
            with connect(f"ws://{host}/live", additional_headers=origin) as live:
                messages = _messages(live)
                labels = next(messages)["device"]["labels"]
                assert labels["name"] == "yolov8n-pose-demo-64"
                assert labels["classes"] == ["person"]
                assert len(labels["keypoints"]) == 17
                jpeg = next(each for each in messages if isinstance(each, bytes))
                assert jpeg[4:6] == b"\xff\xd8"
            process.send_signal(signal.SIGINT)
            _out, said = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, said
