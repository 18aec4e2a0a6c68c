"""Serves the monitor's page and its WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from types import TracebackType
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
from kiln.monitor.clients import Mailbox, event_messages, state_message
from kiln.monitor.hub import Hub, Seen
from kiln.monitor.recording import Recorder
from kiln.monitor.session import Thresholds

#: How often a browser hears of a changed state.
STATE_EVERY_S = 0.25
#: What a browser says is a few words.
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

    ``address`` other than loopback asks for a token, which ``url`` holds. Raises RequestError if
    it cannot listen there.
    """

    def __init__(
        self, hub: Hub, recorder: Recorder, *, address: str = LOOPBACK, port: int = 0
    ) -> None:
        self._socket = bind(address, port)
        self._access = Access(address, self._socket.getsockname()[1])
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(hub, recorder, self._access),
                # The first request holds the token: no word of requests goes into any log.
                log_config=None,
                log_level="error",
                lifespan="off",
                server_header=False,
                ws_max_size=_MAX_MESSAGE_BYTES,
                # Pictures are compressed already.
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="server"
        )
        # Before it runs, the socket holds connections back.
        self._thread.start()

    @property
    def url(self) -> str:
        return self._access.url

    def close(self) -> None:
        """Tell every browser, and end."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> MonitorServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def application(hub: Hub, recorder: Recorder, access: Access) -> ASGIApp:
    """The page's files at /, and at /live what happens."""
    routes: list[BaseRoute] = []
    for file in files("kiln.monitor").joinpath("page").iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        routes.append(Route(path, _serve(file.read_bytes(), _media_type(file.name))))

    async def live(socket: WebSocket) -> None:
        await _Client(socket, hub, recorder).run()

    routes.append(WebSocketRoute("/live", live))
    return _Door(Starlette(routes=routes), access)


def _media_type(name: str) -> str:
    return _MEDIA_TYPES[name.rpartition(".")[2]]


def _serve(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_request: Request) -> Response:
        return Response(content, media_type=media_type)

    return serve


class _Door:
    """Lets in who may, and sets the headers of every answer."""

    def __init__(self, inside: ASGIApp, access: Access) -> None:
        self._inside = inside
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        connection = HTTPConnection(scope)
        answer = self._answer(connection)
        if answer is None:
            await self._inside(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close(1008)
        else:
            await answer(scope, receive, send_with_headers)

    def _answer(self, connection: HTTPConnection) -> Response | None:
        """What is said instead of what was asked for; None for who may come in."""
        access = self._access
        if not access.knows_host(connection.headers.get("host", "")):
            return PlainTextResponse("This is not the monitor's address.", 421)
        if connection.scope["type"] == "websocket" and not access.is_own_page(connection.headers):
            return PlainTextResponse("Only the monitor's own page may ask for this.", 403)
        if access.is_token(connection.cookies.get(access.cookie)):
            return None
        if access.is_token(connection.query_params.get(PARAMETER)):
            # To the same page, without the token in the address bar and the history.
            welcome = RedirectResponse("/", 303)
            welcome.set_cookie(access.cookie, access.token or "", httponly=True, samesite="strict")
            return welcome
        return PlainTextResponse("Open the address that `kiln monitor` has printed.", 403)


class _Client:
    """One browser: what it is told, and what it asks for."""

    def __init__(self, socket: WebSocket, hub: Hub, recorder: Recorder) -> None:
        self._socket = socket
        self._hub = hub
        self._recorder = recorder

    async def run(self) -> None:
        await self._socket.accept()
        telling = asyncio.create_task(self._tell())
        try:
            async for text in self._socket.iter_text():
                await self._obey(json.loads(text))
        except (ValueError, KeyError, TypeError):
            await self._socket.close(1008, "not understood")
        finally:
            telling.cancel()
            # Its connection is gone, or it was cancelled just now.
            with contextlib.suppress(WebSocketDisconnect, asyncio.CancelledError):
                await telling

    async def _obey(self, wish: Mapping[str, Any]) -> None:
        """Do what the page asks; raises ValueError, KeyError or TypeError for anything else."""
        match wish["do"]:
            case "pause":
                self._hub.pause()
            case "resume":
                self._hub.resume()
            case "score":
                self._hub.set_thresholds(Thresholds(score=_percent(wish["value"])))
            case "iou":
                self._hub.set_thresholds(Thresholds(iou=_percent(wish["value"])))
            case "record":
                self._recorder.start(self._hub.state.about.labels)
            case "stop":
                await asyncio.to_thread(self._recorder.stop)
            case other:
                raise ValueError(other)

    async def _tell(self) -> None:
        """Send events as they come, and the state when it has changed."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        mailbox = Mailbox(functools.partial(_wake, loop, news))
        leave = self._hub.subscribe(mailbox.put)
        said, due = "", loop.time()
        try:
            while True:
                if loop.time() >= due:
                    due = loop.time() + STATE_EVERY_S
                    recording = self._recorder.recording
                    state = state_message(self._hub.state, recording, skipped=mailbox.skipped)
                    if state != said:
                        said = state
                        await self._socket.send_text(state)
                news.clear()
                seen = mailbox.take()
                if seen is not None:
                    await self._tell_of(seen)
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), due - loop.time())
        finally:
            leave()

    async def _tell_of(self, seen: Seen) -> None:
        for message in event_messages(seen):
            if isinstance(message, str):
                await self._socket.send_text(message)
            else:
                await self._socket.send_bytes(message)


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    # The server may be ending just now; there is nobody to tell then.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(news.set)


def _percent(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 100:
        raise ValueError(value)
    return value
