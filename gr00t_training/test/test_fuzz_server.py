# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The fuzz of `bench/fuzz_server.py`, short; and that its checks find a server that is wrong."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("cv2")

from gr00t_test_support.fuzzing import FuzzCounts, run_fuzz
from gr00t_training.serve import server as server_module
from gr00t_training.serve.wire import Wire, pack


@pytest.fixture
def fuzz() -> Iterator[ModuleType]:
    yield pytest.importorskip("bench.fuzz_server", reason="the benches are not part of an installed package")
    logging.disable(logging.NOTSET)  # the fuzz runs without logs


@pytest.mark.slow
def test_hostile_messages_end_as_promised() -> None:
    assert run_fuzz("server", cases=30, seed=7) == FuzzCounts(inputs=30, commands=30, refused=0, faults=0)


def test_the_fuzz_draws_every_kind_of_case(fuzz: ModuleType, tmp_path: Path) -> None:
    context = fuzz.prepare(tmp_path)
    names = {next(fuzz.case(context, random.Random(number), tmp_path))[0] for number in range(40)}
    assert names == {"in process", "loopback", "client"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["no token", "slow", "memory", "raises"])
def test_the_fuzz_finds_a_server_that_is_wrong(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    observation = fuzz.Context().requests[0][0]["data"]
    message = pack({"endpoint": "get_action", "data": observation, "api_token": fuzz.TOKEN}, Wire.N1_5)
    assert fuzz._try_server([(message, True)]) == 0
    knows_token = fault != "no token"
    read = server_module.read_content

    def wrong(*arguments):
        if fault == "slow":
            end_s = time.process_time() + 1.2
            while time.process_time() < end_s:
                pass
        if fault == "memory":
            np.ones(2**29, np.uint8)
        if fault == "raises":
            raise KeyError("x")
        return read(*arguments)

    monkeypatch.setattr(server_module, "read_content", wrong)
    with pytest.raises(AssertionError):
        fuzz._try_server([(message, knows_token)])
