"""Serves the monitor's page and its WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from kiln.monitor.access import LOOPBACK, PARAMETER, Access, bind
from kiln.monitor.clients import ClientQueue, event_messages, state_message
from kiln.monitor.hub import FrameEvent, Hub
from kiln.monitor.recording import Recorder
from kiln.monitor.session import Thresholds

#: How often a changed state is sent.
STATE_EVERY_S = 0.25
#: Messages of the page are short.
_MAX_MESSAGE_BYTES = 4096
_MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class MonitorServer:
    """Serves from when it is made until ``close``, in a thread of its own.

    An address other than loopback needs a token, which ``url`` holds. Raises RequestError if it
    cannot listen there.
    """

    def __init__(
        self, hub: Hub, recorder: Recorder, *, address: str = LOOPBACK, port: int = 0
    ) -> None:
        self._socket = bind(address, port)
        self._access = Access(address, self._socket.getsockname()[1])
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(hub, recorder, self._access),
                # The first request holds the token: no request is logged.
                log_config=None,
                log_level="error",
                lifespan="off",
                server_header=False,
                ws_max_size=_MAX_MESSAGE_BYTES,
                # Images are compressed already.
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="server"
        )
        # Until the server runs, the socket queues connections.
        self._thread.start()

    @property
    def url(self) -> str:
        return self._access.url

    def close(self) -> None:
        """Close every connection, and end."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> MonitorServer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def application(hub: Hub, recorder: Recorder, access: Access) -> ASGIApp:
    """The page's files at /, and its WebSocket at /live."""
    routes: list[BaseRoute] = []
    for file in files("kiln.monitor").joinpath("page").iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        routes.append(Route(path, _serve(file.read_bytes(), _media_type(file.name))))

    async def live(socket: WebSocket) -> None:
        await _Client(socket, hub, recorder).run()

    routes.append(WebSocketRoute("/live", live))
    return AccessMiddleware(Starlette(routes=routes), access)


def _media_type(name: str) -> str:
    return _MEDIA_TYPES[name.rpartition(".")[2]]


def _serve(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_request: Request) -> Response:
        return Response(content, media_type=media_type)

    return serve


class AccessMiddleware:
    """Refuses requests that have no access, and sets the headers of every response."""

    def __init__(self, inside: ASGIApp, access: Access) -> None:
        self._inside = inside
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)
        if refusal is None:
            await self._inside(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close(1008)
        else:
            await refusal(scope, receive, send_with_headers)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        """What is sent instead of the response; None if the request has access."""
        access = self._access
        if not access.knows_host(connection.headers.get("host", "")):
            return PlainTextResponse("This is not the monitor's address.", 421)
        if connection.scope["type"] == "websocket" and not access.is_own_page(connection.headers):
            return PlainTextResponse("Only the monitor's own page may connect here.", 403)
        if access.is_token(connection.cookies.get(access.cookie)):
            return None
        if access.is_token(connection.query_params.get(PARAMETER)):
            # To the same page, without the token in the address bar and the history.
            welcome = RedirectResponse("/", 303)
            welcome.set_cookie(access.cookie, access.token or "", httponly=True, samesite="strict")
            return welcome
        return PlainTextResponse("Open the address that `kiln monitor` has printed.", 403)


class _Client:
    """One browser: sends it updates, and handles its requests."""

    def __init__(self, socket: WebSocket, hub: Hub, recorder: Recorder) -> None:
        self._socket = socket
        self._hub = hub
        self._recorder = recorder

    async def run(self) -> None:
        await self._socket.accept()
        updates = asyncio.create_task(self._send_updates())
        try:
            async for text in self._socket.iter_text():
                await self._handle(json.loads(text))
        except (ValueError, KeyError, TypeError):
            await self._socket.close(1008, "not understood")
        finally:
            updates.cancel()
            # The connection is closed, or the task was cancelled just now.
            with contextlib.suppress(WebSocketDisconnect, asyncio.CancelledError):
                await updates

    async def _handle(self, request: Mapping[str, Any]) -> None:
        """Carry out a request; raises ValueError, KeyError or TypeError if it is malformed."""
        match request["action"]:
            case "pause":
                self._hub.pause()
            case "resume":
                self._hub.resume()
            case "score":
                self._hub.set_thresholds(Thresholds(score=_percent(request["value"])))
            case "iou":
                self._hub.set_thresholds(Thresholds(iou=_percent(request["value"])))
            case "camera":
                self._hub.set_camera(self._camera_mode(request["value"]))
            case "record":
                self._recorder.start(self._hub.state.device.labels)
            case "stop":
                await asyncio.to_thread(self._recorder.stop)
            case other:
                raise ValueError(other)

    def _camera_mode(self, value: object) -> int:
        """Raises ValueError for what is no mode of the board."""
        if type(value) is not int or value not in self._hub.state.device.camera.modes:
            raise ValueError(value)
        return value

    async def _send_updates(self) -> None:
        """Send events as they come, and the state when it has changed."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        waiting = ClientQueue(functools.partial(_set, loop, wake))
        unsubscribe = self._hub.subscribe(waiting.put)
        sent, due = "", loop.time()
        try:
            while True:
                if loop.time() >= due:
                    due = loop.time() + STATE_EVERY_S
                    recording = self._recorder.recording
                    state = state_message(self._hub.state, recording, skipped=waiting.skipped)
                    if state != sent:
                        sent = state
                        await self._socket.send_text(state)
                wake.clear()
                event = waiting.take()
                if event is not None:
                    await self._send_event(event)
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), due - loop.time())
        finally:
            unsubscribe()

    async def _send_event(self, event: FrameEvent) -> None:
        for message in event_messages(event):
            if isinstance(message, str):
                await self._socket.send_text(message)
            else:
                await self._socket.send_bytes(message)


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    # The loop may be closing just now.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)


def _percent(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 100:
        raise ValueError(value)
    return value
