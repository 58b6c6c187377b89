# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What pages fetch rather than get sent: datasets, videos, tables, runs. Everything here only reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from gr00t_console.board import plain
from gr00t_console.datasets import Shelf
from gr00t_console.runs import Runs
from gr00t_console.trial_desk import TrialDesk
from gr00t_training.errors import Gr00tError
from gr00t_training.io.text import printable

NOT_FOUND = 404


def make_router(shelf: Shelf, desk: TrialDesk, runs: Runs) -> APIRouter:
    """Return the routes; each runs in a thread of its own."""
    router = APIRouter(prefix="/api")

    @router.get("/datasets")
    def datasets() -> Response:
        return _json(shelf.list)

    @router.get("/datasets/{dataset}")
    def describe(dataset: str) -> Response:
        return _json(lambda: shelf.describe(dataset))

    @router.get("/datasets/{dataset}/{episode}/curves")
    def curves(dataset: str, episode: int) -> Response:
        return _json(lambda: shelf.curves(dataset, episode))

    @router.get("/datasets/{dataset}/{episode}/clip/{camera}")
    def clip(dataset: str, episode: int, camera: str) -> Response:
        def found() -> dict[str, float]:
            clip = shelf.clip(dataset, episode, camera)
            return {"start_s": clip.start_s, "end_s": clip.end_s}

        return _json(found)

    @router.get("/datasets/{dataset}/{episode}/video/{camera}")
    def video(dataset: str, episode: int, camera: str) -> Response:
        try:
            path = shelf.clip(dataset, episode, camera).path
        except Gr00tError as error:
            return _failed(error)
        if not path.is_file():
            return _failed(Gr00tError(f"{path}: missing"))
        return FileResponse(path, media_type="video/mp4")

    @router.get("/trials.csv")
    def table() -> Response:
        rows = desk.export()["trials"]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["checkpoint"])
        writer.writeheader()
        writer.writerows(rows)
        return PlainTextResponse(text.getvalue(), media_type="text/csv", headers=_download("trials.csv"))

    @router.get("/trials.json")
    def summary() -> Response:
        return JSONResponse(plain(desk.export()), headers=_download("trials.json"))

    @router.get("/runs")
    def all_runs() -> Response:
        return _json(runs.sections)

    return router


def _json(read: Callable[[], Any]) -> Response:
    try:
        return JSONResponse(plain(read()))
    except (Gr00tError, OSError) as error:
        return _failed(error)


def _failed(error: Exception) -> Response:
    return JSONResponse({"error": printable(str(error), 2000)}, status_code=NOT_FOUND)


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
