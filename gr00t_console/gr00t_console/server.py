# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Web server: the page, its sockets, and files of datasets; knows nothing of ROS.

A browser has two sockets: one for state and requests, one for pictures, so that state never waits behind a picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gr00t_console.access import COOKIE, HEADERS, Access
from gr00t_console.board import Board
from gr00t_console.lease import public_id
from gr00t_console.operator import Operator
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable

if TYPE_CHECKING:  # needs aiortc
    from gr00t_console.webrtc import VideoDesk

MAX_MESSAGE = 64 * 1024  # [bytes] from a page
MAX_BROWSERS = 32
MAX_ERROR = 500  # characters
MIN_CLIENT = 16  # characters of a browser's secret
WRONG_TOKEN_S = 0.5
POLICY_VIOLATION = 1008  # close code of RFC 6455
STATIC = {"style.css": "text/css", "icon.svg": "image/svg+xml"}
SCRIPT = "text/javascript"
OPEN_PATHS = ("/login", "/style.css", "/icon.svg")
SIGN_IN = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>GR00T console</title>
<link rel="stylesheet" href="/style.css"></head><body class="sign-in"><main><h1>GR00T console</h1>
<form method="post" action="/login"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required>
<button class="primary">Sign in</button><p role="status">%s</p></form></main></body></html>"""


def create_app(
    operator: Operator,
    board: Board,
    pictures: Board,
    access: Access,
    files: APIRouter,
    on_start: Callable[[], None],
    videos: VideoDesk | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        operator: does what pages ask.
        board: state for all pages.
        pictures: newest JPEG by camera.
        access: who may open the page.
        files: what pages fetch.
        on_start: called in the event loop before the first request.
        videos: connects browsers that want video instead of pictures; None: nobody may.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        board.start()
        pictures.start()
        on_start()
        watching = asyncio.create_task(operator.watch())
        yield
        watching.cancel()
        if videos is not None:
            await videos.close()
        operator.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(_Guard, access=access)
    app.include_router(files)

    @app.get("/")
    def page(request: Request) -> Response:
        token = request.query_params.get("token")
        if token is None:
            return HTMLResponse(_text("index.html"))
        return _signed_in(RedirectResponse("/", status_code=303), access)

    @app.post("/login")
    async def login(request: Request) -> Response:
        token = parse_qs(await _body(request)).get("token", [""])[0]
        if access.accepts(token):
            return _signed_in(RedirectResponse("/", status_code=303), access)
        await asyncio.sleep(WRONG_TOKEN_S)
        return HTMLResponse(SIGN_IN % "wrong token", status_code=401)

    @app.post("/stop")
    async def stop() -> Response:
        return JSONResponse({"text": operator.stop().text})

    if videos is not None:

        @app.post("/api/webrtc")
        async def watch(request: Request) -> Response:
            try:
                return JSONResponse({"sdp": await videos.answer(_parsed(await _body(request)))})
            except ConfigError as error:
                return JSONResponse({"error": printable(str(error), MAX_ERROR)}, status_code=400)

    @app.get("/{name}.{suffix}")
    def static(name: str, suffix: str) -> Response:
        return _static(f"{name}.{suffix}")

    @app.websocket("/state")
    async def state(socket: WebSocket) -> None:
        client = socket.query_params.get("client", "")
        if len(client) < MIN_CLIENT or board.num_readers >= MAX_BROWSERS:
            await socket.close(POLICY_VIOLATION)
            return
        await socket.accept()
        await socket.send_text(json.dumps({"you": public_id(client)}))
        await _both(_send_state(socket, board), _receive(socket, operator, client))

    @app.websocket("/pictures")
    async def show(socket: WebSocket) -> None:
        if pictures.num_readers >= MAX_BROWSERS:
            await socket.close(POLICY_VIOLATION)
            return
        await socket.accept()
        await _both(_send_pictures(socket, pictures), _drain(socket))

    return app


class _Guard:
    """Refuses what `Access` refuses before any handler sees it, and adds the headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            await refusal(scope, receive, _with_headers(send))

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, path = headers.get("host", ""), scope["path"]
        if not self._access.is_host_allowed(host):
            return _refused(403, f"host '{host[:100]}' is not this machine; open http://localhost:PORT, or use a token")
        is_change = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if is_change and not self._access.is_origin_allowed(headers.get("origin"), host):
            return _refused(403, "a page of another site must not control the robot")
        if path in OPEN_PATHS or self._access.is_signed_in(headers.get("cookie", "")):
            return None
        token = Request(scope).query_params.get("token") if scope["type"] == "http" and path == "/" else None
        if token is not None:
            if self._access.accepts(token):
                return None
            await asyncio.sleep(WRONG_TOKEN_S)
        text = "wrong token" if token is not None else "The console prints its token at start."
        return HTMLResponse(SIGN_IN % text, status_code=401)


def _refused(status: int, text: str) -> Response:
    return Response(text + "\n", status_code=status, media_type="text/plain")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def _signed_in(response: Response, access: Access) -> Response:
    if access.token is not None:
        response.set_cookie(COOKIE, access.cookie_value, httponly=True, samesite="strict", max_age=30 * 86400)
    return response


async def _body(request: Request) -> str:
    """Return the body as text; what is past the limit is not read."""
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MAX_MESSAGE:
            break
    return found[:MAX_MESSAGE].decode("utf-8", "replace")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _folder() -> Path:
    return Path(str(resources.files("gr00t_console"))) / "static"


def _text(name: str) -> str:
    return (_folder() / name).read_text(encoding="utf-8")


def _static(name: str) -> Response:
    known = {path.name for path in _folder().iterdir()}
    if name not in known or name.endswith(".html"):
        return _refused(404, "not found")
    kind = SCRIPT if name.endswith(".js") else STATIC.get(name, "application/octet-stream")
    return FileResponse(_folder() / name, media_type=kind)


async def _both(*tasks: Any) -> None:
    """Run until one ends, then end the others."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    for error in ended:
        is_expected = isinstance(error, (asyncio.CancelledError, WebSocketDisconnect, RuntimeError))
        if isinstance(error, BaseException) and not is_expected:
            raise error


async def _send_state(socket: WebSocket, board: Board) -> None:
    reader = board.reader()
    try:
        while True:
            await reader.changed.wait()
            fresh = reader.take()
            if fresh:
                await socket.send_text("{" + ",".join(f'"{name}":{text}' for name, text in fresh.items()) + "}")
    finally:
        reader.close()


async def _receive(socket: WebSocket, operator: Operator, client: str) -> None:
    waiting: set[asyncio.Task[None]] = set()

    async def answer(message: Any) -> None:
        number = message.get("id") if isinstance(message, dict) else None
        found = await operator.handle(client, message)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the page was closed meanwhile
            await socket.send_text(json.dumps({"answer": {"id": number, "ok": found.is_done, "text": found.text}}))

    while True:
        text = await socket.receive_text()
        if text == "beat":
            operator.beat(client)
            continue
        message = _parsed(text) if len(text) <= MAX_MESSAGE else None
        # a request that waits for a node must not hold up the next, which may be a stop
        task = asyncio.create_task(answer(message))
        waiting.add(task)
        task.add_done_callback(waiting.discard)


async def _send_pictures(socket: WebSocket, pictures: Board) -> None:
    reader = pictures.reader()
    try:
        while True:
            await reader.changed.wait()
            for name, content in reader.take().items():
                label = name.encode()[:255]
                await socket.send_bytes(bytes([len(label)]) + label + content)
    finally:
        reader.close()


async def _drain(socket: WebSocket) -> None:
    while True:
        await socket.receive_text()


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)
