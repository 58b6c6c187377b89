# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures as video: what a peer receives, what is refused, and the page in a headless browser."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("aiortc")

import aiortc
import ifaddr
from test_console_server import Served, serving

from gr00t_bringup.views.pictures import jpeg
from gr00t_console.board import Board
from gr00t_console.webrtc import VideoDesk
from gr00t_test_support.browser import Browser, Page, find_browser
from gr00t_test_support.waiting import DEADLINE_S, eventually
from gr00t_training.errors import ConfigError

PERIOD_S = 0.05
CAMERAS = {"front": (200, 40, 40), "wrist": (30, 60, 210)}  # RGB
HAS_NETWORK = any(not ip.ip.startswith("127.") for each in ifaddr.get_adapters() for ip in each.ips if ip.is_IPv4)
pytestmark = pytest.mark.skipif(not HAS_NETWORK, reason="a network interface: WebRTC does not use the loopback one")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    def make_videos(pictures: Board) -> VideoDesk:
        return VideoDesk(pictures, max_browsers=2)

    with serving(tmp_path_factory.mktemp("console"), make_videos=make_videos) as served:
        served.board.post("cameras", list(CAMERAS))
        served.board.post("webrtc", True)
        yield served


@contextmanager
def filming(console: Served) -> Iterator[threading.Event]:
    """Post pictures of one color per camera until the end, or until the event is set."""
    is_over = threading.Event()
    coded = {
        name: jpeg(np.full((48, 65, 3), color, np.uint8), 320) for name, color in CAMERAS.items()
    }  # an odd width: video has even ones

    def film() -> None:
        while not is_over.wait(PERIOD_S):
            for name, content in coded.items():
                console.pictures.post(name, content)

    thread = threading.Thread(target=film)
    thread.start()
    try:
        yield is_over
    finally:
        is_over.set()
        thread.join()


def post(console: Served, content: Any) -> tuple[int, dict[str, Any]]:
    found = console.get("/api/webrtc", "POST", json.dumps(content))
    return found.status, json.loads(found.read())


def color_of(image: np.ndarray) -> tuple[int, ...]:
    return tuple(image.reshape(-1, 3).mean(0).round().astype(int))


def is_near(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 25 for a, b in zip(found, expected, strict=True))


def test_a_peer_gets_the_video_of_each_camera_that_it_named(console: Served) -> None:
    async def watch() -> dict[str, np.ndarray]:
        peer = aiortc.RTCPeerConnection()
        names = list(reversed(CAMERAS))  # the order is the peer's
        for _ in names:
            peer.addTransceiver("video", direction="recvonly")
        await peer.setLocalDescription(await peer.createOffer())
        offer = {"sdp": peer.localDescription.sdp, "cameras": names}
        status, answer = await asyncio.to_thread(post, console, offer)
        assert status == 200, answer
        await peer.setRemoteDescription(aiortc.RTCSessionDescription(answer["sdp"], "answer"))
        tracks = [each.receiver.track for each in peer.getTransceivers()]
        frames = [await asyncio.wait_for(track.recv(), DEADLINE_S) for track in tracks]
        await peer.close()
        return {name: frame.to_ndarray(format="rgb24") for name, frame in zip(names, frames, strict=True)}

    with filming(console):
        images = asyncio.run(watch())
    assert {name: image.shape for name, image in images.items()} == dict.fromkeys(CAMERAS, (48, 64, 3))
    assert all(is_near(color_of(images[name]), color) for name, color in CAMERAS.items())
    eventually(lambda: console.pictures.num_readers == 0, "the connection's end")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["no", "offer"], "expected the text 'sdp' and the list 'cameras' of 1 to 16 names"),
        ({"sdp": "v=0", "cameras": []}, "expected the text 'sdp' and the list 'cameras' of 1 to 16 names"),
        ({"sdp": "v=0", "cameras": [1]}, "expected the text 'sdp' and the list 'cameras' of 1 to 16 names"),
        ({"sdp": "nonsense", "cameras": ["front"]}, "not an offer of 1 videos to receive"),
        ({"sdp": "x" * 100_000, "cameras": ["front"]}, "expected the text 'sdp'"),
    ],
)
def test_what_is_no_offer_is_refused(console: Served, content: Any, message: str) -> None:
    status, answer = post(console, content)
    assert status == 400
    assert message in answer["error"]


def test_a_console_without_the_option_has_no_video(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        assert served.get("/api/webrtc", "POST", "{}").status in (404, 405)


def test_without_aiortc_the_option_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    console = pytest.importorskip("gr00t_console.ros.console")
    monkeypatch.delitem(sys.modules, "gr00t_console.webrtc")
    monkeypatch.setitem(sys.modules, "aiortc", None)
    with pytest.raises(ConfigError, match="--webrtc needs aiortc, which cannot be imported"):
        console._videos(Board())


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="a browser: install chromium")
def test_the_page_shows_videos_and_goes_back_to_pictures_when_they_end(console: Served) -> None:
    with filming(console), Browser() as browser:
        page = browser.page()
        page.open(f"http://localhost:{console.port}/")
        for name, color in CAMERAS.items():
            box = f"document.querySelector('[data-camera={name}] video')"
            page.until(f"{box}?.videoWidth === 64 && !{box}.hidden", f"the video of {name}")
            eventually(lambda b=box, c=color: is_near(drawn(page, b), c), lambda b=box: str(drawn(page, b)))
        page.until("/^0/.test(document.querySelector('[data-camera] .age').textContent)", "a new picture")
        assert console.pictures.num_readers == 1  # the socket of pictures is closed
        console.board.post("webrtc", False)
        page.until("document.querySelector('[data-camera] img')?.naturalWidth === 65", "pictures")
        page.until("document.querySelector('[data-camera] video').hidden", "no video")
        console.board.post("webrtc", True)
        assert page.errors == []
        page.close()


def drawn(page: Page, video: str) -> tuple[int, ...]:
    """Return the color of the middle of what the page draws."""
    text = f"""(() => {{ const canvas = document.createElement('canvas'), video = {video};
        [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
        const pen = canvas.getContext('2d');
        pen.drawImage(video, 0, 0);
        return Array.from(pen.getImageData(32, 24, 1, 1).data).slice(0, 3); }})()"""
    return tuple(page.value(text))
