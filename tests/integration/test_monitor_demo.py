"""`kiln monitor --demo`: a built model on the emulated board, all the way to a browser's line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

from tests.integration.user import TINY, User

_PATIENCE_S = 600.0


def _messages(live: ClientConnection) -> Iterator[Any]:
    """What a browser is told: JSON as it is, pictures as bytes."""
    while True:
        message = live.recv(timeout=_PATIENCE_S)
        yield message if isinstance(message, bytes) else json.loads(message)


def test_the_demo_shows_what_a_built_model_sees(user: User) -> None:
    user.builds(*TINY)
    build = "build/grove-v2/yolov8n-pose-demo-64"
    command = ("monitor", "--demo", "--build", build, "--executor", "local", "--no-open")
    with user.starts(*command) as process:
        assert process.stdout is not None
        host = urlsplit(process.stdout.readline().strip()).netloc
        with connect(f"ws://{host}/live", additional_headers={"Origin": f"http://{host}"}) as live:
            messages = _messages(live)
            state = next(messages)
            assert state["about"]["labels"]["name"] == "yolov8n-pose-demo-64"
            assert state["about"]["labels"]["classes"] == ["person"]
            # A model of one epoch is sure of nothing.
            live.send(json.dumps({"do": "score", "value": 1}))
            picture = next(each for each in messages if isinstance(each, bytes))
            assert picture[4:6] == b"\xff\xd8"
            events = (each for each in messages if isinstance(each, dict) and "objects" in each)
            seen = next(each for each in events if each["objects"])
            assert {len(each["points"]) for each in seen["objects"]} == {17}
        process.send_signal(signal.SIGINT)
        _out, said = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, said
