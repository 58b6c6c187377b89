# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The web server without ROS: who gets in, what the sockets carry, and which files there are."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import uvicorn
from test_console_operator import ANNA, BEN, SeenRobot
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gr00t_console.access import Access
from gr00t_console.actions import add_actions
from gr00t_console.board import Board
from gr00t_console.datasets import Shelf
from gr00t_console.operator import Operator
from gr00t_console.routes import make_router
from gr00t_console.runs import Runs
from gr00t_console.server import create_app
from gr00t_console.trial_desk import TrialDesk
from gr00t_test_support.waiting import DEADLINE_S, eventually

TOKEN = "a token that somebody chose"


@dataclass
class Served:
    """A running server."""

    port: int
    robot: SeenRobot
    board: Board
    pictures: Board

    def get(self, path: str, method: str = "GET", body: str = "", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        connection.request(method, path, body or None, {name.replace("_", "-"): each for name, each in headers.items()})
        return connection.getresponse()

    def socket(self, path: str, **options: Any) -> Any:
        return connect(f"ws://127.0.0.1:{self.port}{path}", open_timeout=DEADLINE_S, **options)


@contextmanager
def serving(
    folder: Path, token: str | None = None, *, make_videos: Callable[[Board], Any] | None = None
) -> Iterator[Served]:
    robot, board, pictures = SeenRobot(), Board(), Board()
    operator, shelf, desk = Operator(robot, board, lost_after_s=DEADLINE_S), Shelf([]), TrialDesk(folder / "t.csv")
    add_actions(operator, robot, board, shelf, desk)
    router = make_router(shelf, desk, Runs([]))
    videos = make_videos(pictures) if make_videos is not None else None
    app = create_app(operator, board, pictures, Access(token), router, on_start=lambda: None, videos=videos)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started and server.servers, "start")
        yield Served(server.servers[0].sockets[0].getsockname()[1], robot, board, pictures)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("local")) as served:
        yield served


def test_the_page_forbids_everything_from_elsewhere(local: Served) -> None:
    answer = local.get("/")
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    page = answer.read().decode()
    assert "http" not in page  # nothing of another host, nothing inline
    assert "<script type" in page
    for name in ("app.js", "style.css", "icon.svg", "episode.js"):
        assert local.get(f"/{name}").status == 200


@pytest.mark.parametrize(
    "path", ["/../server.py", "/%2e%2e/server.py", "/index.html", "/docs", "/api/datasets/..%2f.."]
)
def test_other_files_are_not_served(local: Served, path: str) -> None:
    assert local.get(path).status == 404


def test_foreign_names_and_pages_are_refused(local: Served) -> None:
    assert local.get("/", Host="evil.example").status == 403
    assert local.get("/stop", "POST", Origin="http://evil.example").status == 403
    with pytest.raises(InvalidStatus, match="403"), local.socket(f"/state?client={ANNA}", origin="http://evil.example"):
        pass
    assert local.robot.told == []


def test_sockets_carry_state_answers_and_pictures(local: Served) -> None:
    local.board.post("policy", {"state": "running"})
    local.pictures.post("front", b"jpeg")
    with local.socket(f"/state?client={ANNA}") as anna, local.socket(f"/state?client={BEN}") as ben:
        seen: dict[str, Any] = {}

        def ask(socket: Any, **message: Any) -> dict[str, Any]:
            socket.send(json.dumps({"id": 1, **message}))
            while "answer" not in (found := json.loads(socket.recv(DEADLINE_S))):
                seen.update(found)
            return found["answer"]

        assert ask(anna, do="take", name="Anna")["ok"]
        assert not ask(ben, do="reset")["ok"]
        assert ask(anna, do="reset") == {"id": 1, "ok": True, "text": "done"}
        for garbage in ("beat", "{", "[]", "null", '{"do": {}}', "7"):
            ben.send(garbage)
        local.robot.told.clear()
        ben.send(json.dumps({"do": "stop", "id": 2}))
        eventually(lambda: local.robot.told == ["stop"], "a stop from who only watches")
        assert seen["policy"] == {"state": "running"}
    with local.socket("/pictures") as socket:
        assert socket.recv(DEADLINE_S) == b"\x05frontjpeg"
    assert local.get("/stop", "POST").status == 200  # where the socket is lost
    assert local.robot.told == ["stop", "stop"]


def test_with_a_token_nothing_is_open_before_it(tmp_path: Path) -> None:
    with serving(tmp_path, TOKEN) as served:
        assert served.get("/").status == 401
        assert served.get("/app.js").status == 401
        assert served.get("/api/datasets").status == 401
        assert served.get("/stop", "POST").status == 401
        assert served.get("/?token=wrong").status == 401
        assert served.get("/login", "POST", "token=wrong").status == 401
        with pytest.raises(InvalidStatus), served.socket(f"/state?client={ANNA}"):
            pass
        answer = served.get("/login", "POST", "token=a+token+that+somebody+chose")
        assert answer.status == 303
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        opened = {"Cookie": cookie.split(";")[0]}
        assert served.get("/", **opened).status == 200
        with served.socket(f"/state?client={ANNA}", additional_headers=opened) as socket:
            assert "you" in json.loads(socket.recv(DEADLINE_S))
