# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures as video over WebRTC (RFC 8825), by aiortc: an option beside the WebSocket.

A video needs fewer bytes than its JPEG pictures, and a lost packet does not hold up the next picture. The browser
offers one video per camera and names them in that order; the answer carries the addresses of this machine, so neither a
STUN nor a TURN server is asked, and browser and console must reach each other directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from gr00t_console.board import Board
from gr00t_training.errors import ConfigError

CLOCK_HZ = 90_000  # of video in RTP (RFC 3551)
MAX_CAMERAS = 16
CONNECT_S = 60.0  # an offer that is not followed by a connection is forgotten


class VideoDesk:
    """The connections of all browsers; everything in the event loop."""

    def __init__(self, pictures: Board, *, max_browsers: int) -> None:
        """Begin without a connection.

        Args:
            pictures: newest JPEG by camera.
            max_browsers: connections at a time.
        """
        self._pictures, self._max_browsers = pictures, max_browsers
        self._running: set[asyncio.Task[None]] = set()

    async def answer(self, offer: Any) -> str:
        """Connect to a browser and return the answer (SDP, RFC 8866).

        Args:
            offer: `{"sdp": text, "cameras": [name, ...]}`: the browser's SDP and the cameras of its videos, in order.

        Raises:
            ConfigError: the offer is something else or cannot be answered, or too many browsers watch.
        """
        sdp, cameras = _parts(offer)
        if len(self._running) >= self._max_browsers:
            raise ConfigError(f"{self._max_browsers} browsers watch already; close one")
        connection = RTCPeerConnection()
        tracks = [CameraTrack() for _ in cameras]
        try:
            await connection.setRemoteDescription(RTCSessionDescription(_without_names(sdp), "offer"))
            for video, track in zip(_videos(connection), tracks, strict=True):
                video.sender.replaceTrack(track)
                video.direction = "sendonly"
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # of the parser: whatever a browser sends is one error
            await connection.close()
            raise ConfigError(f"offer: not an offer of {len(tracks)} videos to receive: {error}") from error
        task = asyncio.create_task(self._show(connection, dict(zip(cameras, tracks, strict=True))))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return connection.localDescription.sdp

    async def close(self) -> None:
        """End all connections."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _show(self, connection: Any, tracks: dict[str, CameraTrack]) -> None:
        """Feed the videos until the connection is over."""
        over, connected = asyncio.Event(), asyncio.Event()

        @connection.on("connectionstatechange")
        def changed() -> None:
            if connection.connectionState == "connected":
                connected.set()
            elif connection.connectionState in ("failed", "closed"):
                over.set()

        reader = self._pictures.reader()
        ending = asyncio.ensure_future(over.wait())
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connected.wait(), CONNECT_S)
            while connected.is_set() and not over.is_set():
                changing = asyncio.ensure_future(reader.changed.wait())
                await asyncio.wait((changing, ending), return_when=asyncio.FIRST_COMPLETED)
                changing.cancel()
                for name, content in reader.take().items():
                    if name in tracks:
                        tracks[name].show(content)
        finally:
            reader.close()
            ending.cancel()
            await connection.close()


class CameraTrack(MediaStreamTrack):
    """One camera for one browser: always its newest picture, each once."""

    kind = "video"

    def __init__(self) -> None:
        """Begin without a picture."""
        super().__init__()
        self._jpeg = b""
        self._changed = asyncio.Event()

    def show(self, jpeg: bytes) -> None:
        """Take a picture; one that was not sent yet is dropped."""
        self._jpeg = jpeg
        self._changed.set()

    def stop(self) -> None:
        """End the video."""
        super().stop()
        self._changed.set()

    async def recv(self) -> VideoFrame:
        """Wait for the next picture and return it.

        Raises:
            MediaStreamError: the video has ended.
        """
        await self._changed.wait()
        if self.readyState != "live":
            raise MediaStreamError
        self._changed.clear()
        frame = await asyncio.to_thread(_frame, self._jpeg)
        frame.pts, frame.time_base = int(time.monotonic() * CLOCK_HZ), Fraction(1, CLOCK_HZ)
        return frame


def _parts(offer: Any) -> tuple[str, list[str]]:
    found = offer if isinstance(offer, dict) else {}
    sdp, cameras = found.get("sdp"), found.get("cameras")
    if isinstance(sdp, str) and isinstance(cameras, list) and 1 <= len(cameras) <= MAX_CAMERAS:
        names = [name for name in cameras if isinstance(name, str)]
        if len(names) == len(cameras):
            return sdp, names
    raise ConfigError(f"offer: expected the text 'sdp' and the list 'cameras' of 1 to {MAX_CAMERAS} names")


def _frame(jpeg: bytes) -> VideoFrame:
    image: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2  # of 4:2:0
    return VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="bgr24")


def _videos(connection: Any) -> list[Any]:
    return [each for each in connection.getTransceivers() if each.kind == "video"]


def _without_names(sdp: str) -> str:
    """Drop addresses that are names of multicast DNS: the browser is recognized when it calls."""
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not (line.startswith("a=candidate:") and ".local " in line))
