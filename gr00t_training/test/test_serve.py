# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import base64
import contextlib
import dataclasses
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pytest

pytest.importorskip("msgpack")
zmq = pytest.importorskip("zmq")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gr00t_test_support.builders import make_checkpoint, make_embodiment  # noqa: E402
from gr00t_test_support.forked_python import python  # noqa: E402
from gr00t_test_support.waiting import DEADLINE_S as PATIENCE_S  # noqa: E402
from gr00t_test_support.waiting import eventually  # noqa: E402
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey  # noqa: E402
from gr00t_training.errors import ConfigError, ObservationError, ServerError  # noqa: E402
from gr00t_training.policy.policy_like import PolicyLike  # noqa: E402
from gr00t_training.serve import server as server_module  # noqa: E402
from gr00t_training.serve.access import check_exposure, find_token  # noqa: E402
from gr00t_training.serve.client import PolicyClient  # noqa: E402
from gr00t_training.serve.images import ImageForm  # noqa: E402
from gr00t_training.serve.server import PolicyServer, ServerSettings, WireChoice  # noqa: E402
from gr00t_training.serve.wire import EncodedImages, ModalityConfig, Wire, pack, unpack  # noqa: E402
from gr00t_training.types import ActionChunk, Continuation, Observation  # noqa: E402

EMBODIMENT = make_embodiment(fps=20)
BOTH = pytest.mark.parametrize("wire", list(Wire))


class SumPolicy(PolicyLike):
    """Answers with 0, 1, 2, ... plus the sum of the first state key; an instruction may ask it to wait or to fail."""

    def __init__(self, embodiment: Embodiment = EMBODIMENT) -> None:
        self.embodiment = embodiment
        self.is_held, self.release = threading.Event(), threading.Event()
        self.asked: list[Observation] = []
        self.num_resets = 0

    def infer_batch(self, observations, continuations=None):
        self.asked += observations
        self.continuations = continuations
        if observations[0].instruction == "wait":
            self.is_held.set()
            assert self.release.wait(PATIENCE_S)
        if observations[0].instruction == "fail":
            raise RuntimeError("the device has left")
        return [self._answer(observation) for observation in observations]

    def reset(self):
        self.num_resets += 1

    def _answer(self, observation):
        start = observation.state[self.embodiment.state_keys[0]].sum()
        return ActionChunk(
            {key: start + self._ramp(self.embodiment.action[key].dim) for key in self.embodiment.action_keys},
            observation.stamp_ns,
            self.embodiment.step_ns,
        )

    def _ramp(self, dim):
        shape = (self.embodiment.action_horizon, dim)
        return np.arange(float(np.prod(shape))).reshape(shape)


class Serving:
    """A server in a thread, on a free port."""

    def __init__(self, policy, *, port=0, token=None, usual_wire=Wire.N1_7, observer=None, others=None, **options):
        self.policy = policy
        settings, given = ServerSettings(port=port, **options), {"usual_wire": usual_wire, "observer": observer}
        self.server = PolicyServer(policy, settings, token=token, name="test", others=others, **given)
        self.port = self.server.port
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.policy.release.set()
        self.server.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()

    def client(self, **options):
        given = {"embodiment": self.policy.embodiment, "port": self.port, "timeout_s": PATIENCE_S}
        return PolicyClient(**given | options)


class Asking:
    """A bare socket that sends bytes and shows the reply's."""

    def __init__(self, port, kind=zmq.REQ):
        self._context = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.linger = 0
        self.socket.rcvtimeo = round(PATIENCE_S * 1000)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self._context.term()

    def __call__(self, message):
        self.socket.send(message)
        return self.socket.recv()

    def ask(self, content, wire=Wire.N1_7):
        return unpack(self(pack(content, wire)))[0]

    def error(self, content, wire=Wire.N1_7):
        reply = self.ask(content, wire)
        assert set(reply) == {"error"}
        return reply["error"]


def make_observation(start=0.5, text="lift the cube", stamp_ns=1_000):
    return Observation(
        {"front": np.full((1, 32, 48, 3), 90, np.uint8)},
        {"arm": np.array([[start, 0.0, 0.0]]), "gripper": np.zeros((1, 1))},
        text,
        stamp_ns,
    )


def nested(batch=1, **changes):
    observation = {
        "video": {"front": np.zeros((batch, 1, 32, 48, 3), np.uint8)},
        "state": {"arm": np.zeros((batch, 1, 3), np.float32), "gripper": np.zeros((batch, 1, 1), np.float32)},
        "language": {"annotation.human.task_description": [["lift"]] * batch},
    }
    return {"endpoint": "get_action", "data": {"observation": {**observation, **changes}, "options": None}}


def flat(**changes):
    data = {
        "video.front": np.zeros((1, 32, 48, 3), np.uint8),
        "state.arm": np.zeros((1, 3)),
        "state.gripper": np.zeros((1, 1)),
        "annotation.human.task_description": ["lift"],
    }
    return {"endpoint": "get_action", "data": {**data, **{key.replace("__", "."): v for key, v in changes.items()}}}


def continued(**changes):
    options = {"previous_actions": {"arm": np.ones((5, 3)), "gripper": np.zeros((5, 1))}, "frozen_steps": 2}
    return {"data": {**nested()["data"], "options": {**options, **changes}}}


@pytest.fixture
def serving():
    with Serving(SumPolicy()) as made:
        yield made


@pytest.fixture
def asking(serving):
    with Asking(serving.port) as made:
        yield made


def vector(key, dim, **options):
    return VectorKey(names=tuple(f"{key}_{i}" for i in range(dim)), **options)


def protocol_embodiment():
    """The robot of the recorded N1.7 exchanges."""
    return Embodiment(
        name="recorded",
        tag="new_embodiment",
        fps=10,
        state={"arm": vector("arm", 3)},
        action={"arm": vector("arm", 3, relative_to="arm")},
        video={"front": VideoKey(height=2, width=2)},
        language="task",
        action_horizon=2,
    )


def generic_embodiment():
    """The robot of the recorded N1.5 messages."""
    return Embodiment(
        name="recorded",
        tag="gr1",
        fps=20,
        state={"left_arm": vector("left_arm", 7)},
        action={"left_arm": vector("left_arm", 7)},
        video={"ego_view": VideoKey(height=2, width=4)},
        language="human.action.task_description",
        action_horizon=2,
    )


@pytest.fixture(scope="module")
def exchanges(fixtures_dir):
    content = json.loads((fixtures_dir / "n1_7_protocol/exchanges.json").read_text())["exchanges"]
    return {
        exchange["case"]: (bytes.fromhex(exchange["request_hex"]), bytes.fromhex(exchange["reply_hex"]))
        for exchange in content
    }


@pytest.fixture(scope="module")
def n1_5_messages(fixtures_dir):
    content = json.loads((fixtures_dir / "transforms_generic/zmq_msgpack_messages_base64.json").read_text())
    return {name: base64.b64decode(text) for name, text in content.items()}


# --- the published protocols


def test_n1_7_exchanges_byte_for_byte(exchanges):
    policy = SumPolicy(protocol_embodiment())
    with Serving(policy, token="secret", allow_kill=True) as serving, Asking(serving.port) as asking:
        found = {case: asking(request) for case, (request, _) in exchanges.items()}
        serving.thread.join(PATIENCE_S)  # the last one is "kill"
        assert not serving.thread.is_alive()
    assert found == {case: reply for case, (_, reply) in exchanges.items()}
    assert policy.num_resets == 1
    assert [observation.instruction for observation in policy.asked] == ["do it", "do it"]


def test_n1_5_messages_byte_for_byte(n1_5_messages):
    policy = SumPolicy(generic_embodiment())  # its state sums to zero
    token = unpack(n1_5_messages["get_action_request_with_token"])[0]["api_token"]
    with Serving(policy, usual_wire=Wire.N1_5) as serving, Asking(serving.port) as asking:
        found = unpack(asking(n1_5_messages["get_action_request"]))[0]["action.left_arm"]
        np.testing.assert_allclose(found, np.arange(14).reshape(2, 7), atol=1e-6)
        assert asking(n1_5_messages["ping_request"]) == n1_5_messages["ping_response"]
        assert asking(pack({"endpoint": "foo"}, Wire.N1_5)) == n1_5_messages["error_response"]
        assert asking.ask({"endpoint": "get_modality_config"}, Wire.N1_5) == {
            "video": ModalityConfig((0,), ("video.ego_view",)),
            "state": ModalityConfig((0,), ("state.left_arm",)),
            "action": ModalityConfig((0, 1), ("action.left_arm",)),
            "language": ModalityConfig((0,), ("annotation.human.action.task_description",)),
        }
        request = unpack(n1_5_messages["get_action_request"])[0]
        request["data"]["state.left_arm"] = np.zeros((1, 7))
        assert asking(pack(request, Wire.N1_5)) == n1_5_messages["get_action_response"]
    with Serving(policy, token=token) as serving, Asking(serving.port) as asking:
        assert asking(n1_5_messages["get_action_request"]) == n1_5_messages["unauthorized_response"]
        assert "action.left_arm" in unpack(asking(n1_5_messages["get_action_request_with_token"]))[0]


class Recorded:
    """A server that answers each of the known requests with known bytes and fails at any other."""

    def __init__(self, replies):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._replies = replies
        self.requests = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._is_closed = True
        self._thread.join(PATIENCE_S)
        self._context.destroy(0)

    def _serve(self):
        while not self._is_closed:
            if self._socket.poll(20):
                self.requests.append(self._socket.recv())
                self._socket.send(self._replies.get(self.requests[-1], pack({"error": "not recorded"}, Wire.N1_7)))


def test_client_talks_to_the_n1_7_release_byte_for_byte(exchanges):
    unknown = pack({"error": "Unknown endpoint: health"}, Wire.N1_7)
    health = pack({"endpoint": "health", "api_token": "secret"}, Wire.N1_7)
    observation = Observation(
        {"front": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)}, {"arm": np.array([[0.5, 1.0, -0.25]])}, "do it", 7
    )
    with (
        Recorded({**dict(exchanges.values()), health: unknown}) as server,
        PolicyClient(protocol_embodiment(), port=server.port, token="secret") as client,
    ):
        client.ping()
        chunk = client.infer(observation)
        client.reset()
        assert client.modality_config()["language"].modality_keys == ("task",)
        with pytest.raises(ServerError, match="health was refused: Unknown endpoint"):
            client.health()
    asked = [exchanges[case][0] for case in ("ping", "get_modality_config", "get_action", "reset")]
    assert server.requests == [asked[0], health, *asked[1:], asked[1], health]
    np.testing.assert_array_equal(chunk.actions["arm"], np.arange(6.0).reshape(2, 3) + 1.25)
    assert (chunk.start_ns, chunk.step_ns) == (7, 100_000_000)


def test_client_talks_to_the_n1_5_release_byte_for_byte(n1_5_messages):
    config = {
        "video": ModalityConfig((0,), ("video.ego_view",)),
        "state": ModalityConfig((0,), ("state.left_arm",)),
        "action": ModalityConfig((0, 1), ("action.left_arm",)),
        "language": ModalityConfig((0,), ("annotation.human.action.task_description",)),
    }
    replies = {
        pack({"endpoint": "health"}, Wire.N1_5): pack({"error": "Unknown endpoint: health"}, Wire.N1_5),
        pack({"endpoint": "get_modality_config"}, Wire.N1_5): pack(config, Wire.N1_5),
        n1_5_messages["get_action_request"]: n1_5_messages["get_action_response"],
    }
    image = np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)
    observation = Observation({"ego_view": image}, {"left_arm": np.linspace(-1, 1, 7)[None]}, "do it")
    with (
        Recorded(replies) as server,
        PolicyClient(generic_embodiment(), port=server.port, wire=Wire.N1_5) as client,
    ):
        client.reset()  # nothing to reset there
        chunk = client.infer(observation)
    assert server.requests == list(replies)
    np.testing.assert_array_equal(chunk.actions["left_arm"], np.arange(14.0).reshape(2, 7))


def test_client_refuses_the_release_for_another_robot(exchanges):
    health = pack({"endpoint": "health", "api_token": "secret"}, Wire.N1_7)
    unknown = pack({"error": "Unknown endpoint: health"}, Wire.N1_7)
    other = dataclasses.replace(
        protocol_embodiment(),
        state={"arm": vector("arm", 3), "leg": vector("leg", 2)},
        video_history=(-5, 0),
        action_horizon=4,
    )
    with (
        Recorded({**dict(exchanges.values()), health: unknown}) as server,
        PolicyClient(other, port=server.port, token="secret") as client,
        PolicyClient(other, port=server.port, token="secret", images=ImageForm.JPEG) as narrow,
    ):
        with pytest.raises(ServerError, match="serves another embodiment than 'recorded'") as caught:
            client.check_embodiment()
        with pytest.raises(ServerError, match="raw images only"):
            narrow.check_embodiment()
    for item in (
        "state keys: found [arm], expected [arm, leg]",
        "video ticks: found [0], expected [-5, 0]",
        "action ticks: found [0, 1], expected [0, 1, 2, 3]",
    ):
        assert item in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ([{"arm": np.zeros((1, 2, 4), np.float32)}, {}], r"arm is float32 \(1, 2, 4\), 'recorded' expects numbers"),
        ([{"leg": np.zeros((1, 2, 3), np.float32)}, {}], "arm is nothing"),
        ([{"arm": np.full((1, 2, 3), np.nan, np.float32)}, {}], "arm has values that are not finite"),
        ([{"arm": np.array([[["x"] * 3] * 2])}, {}], r"arm is <U1 \(1, 2, 3\)"),
        ({}, "found a map of 0, expected a list"),
        (None, "found nothing, expected a list"),
    ],
)
def test_client_checks_what_a_server_answers(exchanges, reply, words):
    replies = dict(exchanges.values())
    replies[pack({"endpoint": "health", "api_token": "secret"}, Wire.N1_7)] = pack(
        {"error": "Unknown endpoint: health"}, Wire.N1_7
    )
    replies[exchanges["get_action"][0]] = pack(reply, Wire.N1_7)
    observation = Observation(
        {"front": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)}, {"arm": np.array([[0.5, 1.0, -0.25]])}, "do it"
    )
    with (
        Recorded(replies) as server,
        PolicyClient(protocol_embodiment(), port=server.port, token="secret") as client,
        pytest.raises(ServerError, match=words),
    ):
        client.infer(observation)


def test_layouts_and_batches(asking):
    reply = asking.ask(nested(batch=2))
    assert reply[1] == {}
    assert {key: values.shape for key, values in reply[0].items()} == {"arm": (2, 16, 3), "gripper": (2, 16, 1)}
    assert reply[0]["arm"].dtype == np.float32

    inner = nested(batch=2)["data"]["observation"]
    simulated = {f"{kind}.{key}": inner[kind][key] for kind in ("video", "state") for key in inner[kind]}
    for language in ("annotation.human.coarse_action", "task"):  # the only instruction, whatever its key
        data = {"observation": {**simulated, language: ["lift", "drop"]}, "options": {}}
        reply = asking.ask({"data": data})
        assert {key: values.shape for key, values in reply[0].items()} == {
            "action.arm": (2, 16, 3),
            "action.gripper": (2, 16, 1),
        }

    reply = asking.ask(flat(), Wire.N1_5)
    assert {key: values.shape for key, values in reply.items()} == {"action.arm": (16, 3), "action.gripper": (16, 1)}
    batched = {key: np.stack([value] * 3) for key, value in flat()["data"].items() if not key.startswith("annotation")}
    batched["annotation.human.task_description"] = np.array(["a", "b", "c"])
    assert asking.ask({"data": batched}, Wire.N1_5)["action.gripper"].shape == (3, 16, 1)


def test_n1_5_requests_may_have_lists_and_more_than_is_used(serving, asking):
    request = flat(state__arm=[[1, 2, 3.5]], action__arm=np.zeros((16, 3)), state__leg=np.zeros((1, 2)))
    del request["data"]["annotation.human.task_description"]
    np.testing.assert_array_equal(asking.ask(request, Wire.N1_5)["action.arm"][0], [6.5, 7.5, 8.5])
    assert serving.policy.asked[-1].instruction == ""  # the policy has a sentence for that
    assert set(serving.policy.asked[-1].state) == {"arm", "gripper"}


def test_instructions_reach_the_policy(serving, asking):
    for text in (["lift"], "lift", [["lift"]], np.array(["lift"])):
        asking.ask(flat(annotation__human__task_description=text), Wire.N1_5)
    asking.ask(nested(language={"task": [["old", "lift"]]}))
    assert [observation.instruction for observation in serving.policy.asked] == ["lift"] * 5


def test_a_chunk_to_continue_reaches_the_policy(serving, asking):
    asking.ask(nested())
    assert serving.policy.continuations is None
    asking.ask(continued())
    (found,) = serving.policy.continuations
    assert (found.frozen_steps, found.overlap_steps, found.ramp_rate, found.guidance) == (2, None, 6.0, None)
    assert (found.chunk.start_ns, found.chunk.step_ns, found.chunk.horizon) == (0, EMBODIMENT.step_ns, 5)
    np.testing.assert_array_equal(found.chunk.actions["arm"], np.ones((5, 3)))

    with serving.client() as client:
        chunk = client.infer(make_observation(stamp_ns=10**18))
        asked = Continuation(chunk, frozen_steps=3, overlap_steps=9, ramp_rate=2.5, guidance=5)
        client.infer(make_observation(stamp_ns=10**18 + 70_000_000), asked)
        (found,) = serving.policy.continuations
        assert serving.policy.asked[-1].stamp_ns - found.chunk.start_ns == 70_000_000
        assert dataclasses.replace(found, chunk=chunk) == asked
        for key, values in chunk.actions.items():
            np.testing.assert_array_equal(found.chunk.actions[key], values)
    with serving.client(wire=Wire.N1_5) as client, pytest.raises(ServerError, match=r"wire n1\.7.; ask without"):
        client.infer(make_observation(), asked)


def test_modality_config_has_the_form_that_fits(asking):
    assert asking.ask({"endpoint": "get_modality_config"})["video"].modality_keys == ("front",)
    request = {"endpoint": "get_modality_config", "client": {"wire": "n1.5"}}
    assert asking.ask(request)["video"].modality_keys == ("video.front",)
    with Serving(SumPolicy(), wire=WireChoice.N1_5) as serving, Asking(serving.port) as other:
        assert other.ask({"endpoint": "get_modality_config"})["video"].modality_keys == ("video.front",)
        assert "in the format of n1.7, expected n1.5" in other.error(nested())


# --- bad requests


MALFORMED = {
    "list": ([1], "request: found list, expected a map with 'endpoint'"),
    "number": (5, "request: found int"),
    "endpoint": ({"endpoint": 5}, "Unknown endpoint: 5"),
    "no data": ({"endpoint": "get_action"}, "data: found nothing, expected a map of keys"),
    "data list": ({"data": [1, 2]}, "data: found a list of 2, expected a map"),
    "empty": ({"data": {}}, "state.arm: missing, found nothing under state"),
    "observation": ({"data": {"observation": 1}}, "observation: found 1, expected a map"),
    "no camera": (nested(video={"side": np.zeros(1)}), "video.front: missing, found side under video"),
    "no video": (nested(video=None), "video: found nothing, expected a map"),
    "float video": (
        nested(video={"front": np.zeros((1, 1, 32, 48, 3))}),
        "video.front: found float64 (1, 1, 32, 48, 3), expected uint8 (B, T, H, W, 3)",
    ),
    "image": (
        nested(video={"front": np.zeros((32, 48, 3), np.uint8)}),
        "video.front: found uint8 (32, 48, 3), expected uint8 (B, T, H, W, 3)",
    ),
    "video text": (nested(video={"front": "x"}), "video.front: found the text 'x', expected uint8"),
    "files": (
        nested(video={"front": EncodedImages((1, 32, 48, 3), (b"",))}),
        "video.front: found images of shape (1, 32, 48, 3), expected uint8 (B, T, H, W, 3)",
    ),
    "damaged file": (
        nested(video={"front": EncodedImages((1, 1, 32, 48, 3), (b"x",))}),
        "video.front: file 0 is not a readable JPEG or PNG",
    ),
    "state axes": (
        nested(state={"arm": np.zeros((1, 3)), "gripper": np.zeros((1, 1, 1))}),
        "state.arm: found shape (1, 3), expected (B, T, D)",
    ),
    "state text": (
        nested(state={"arm": np.array(["x"]), "gripper": np.zeros((1, 1, 1))}),
        "state.arm: found <U1 (1,), expected numbers",
    ),
    "state nothing": (nested(state={"arm": None, "gripper": None}), "state.arm: found nothing, expected numbers"),
    "batch": (
        nested(state={"arm": np.zeros((2, 1, 3)), "gripper": np.zeros((2, 1, 1))}),
        "state.arm: batch of 2, expected that of video.front (1)",
    ),
    "no sample": (nested(batch=0), "video.front: batch of 0"),
    "language": (nested(language={}), "language: found nothing, expected annotation.human.task_description"),
    "languages": (nested(language={"a": [["x"]], "b": [["y"]]}), "language: found a, b, expected annotation"),
    "texts": (nested(language={"task": [["x"], ["y"]]}), "task: found a list of 2, expected one text per sample, 1"),
    "no text": (nested(language={"task": [[5]]}), "task: found a list of 1, expected one text per sample"),
    "flat image": (
        flat(video__front=np.zeros((32, 48, 3), np.uint8)),
        "video.front: found uint8 (32, 48, 3), expected uint8 (T, H, W, 3)",
    ),
    "flat state": (flat(state__arm=np.zeros(3)), "state.arm: found shape (3,), expected (T, D)"),
    "ragged": (flat(state__arm=[[1], [1, 2]]), "state.arm: found lists of different length"),
    "half a batch": (
        flat(state__arm=np.zeros((1, 1, 3))),
        "front: found uint8 (1, 32, 48, 3), expected uint8 (B",
    ),
    "unknown key": (flat(vide0__front=1), "vide0.front: unknown key, expected video.*, state.*, annotation.* or task"),
    "options": (continued(speed=2), "options: unknown speed, expected previous_actions, frozen_steps"),
    "options array": (
        {"data": {**nested()["data"], "options": np.zeros(2)}},
        "options: found float64 (2,), expected",
    ),
    "frozen": (continued(frozen_steps=None), "options.frozen_steps: missing, expected the number of steps"),
    "negative frozen": (
        continued(frozen_steps=-1),
        "frozen_steps: found -1, expected a whole number, at least 0",
    ),
    "half frozen": (continued(frozen_steps=1.5), "options.frozen_steps: found 1.5, expected a whole number"),
    "no rate": (continued(ramp_rate=float("nan")), "options.ramp_rate: found nan, expected a number, at least 0"),
    "tick": (continued(step_ns=0), "options.step_ns: found 0, expected a whole number, at least 1"),
    "no previous": (continued(previous_actions=None), "options.previous_actions: found nothing, expected a map"),
    "previous key": (continued(previous_actions={}), "options.previous_actions.arm: found nothing, expected finite"),
    "previous width": (
        continued(previous_actions={"arm": np.zeros((5, 4)), "gripper": np.zeros((5, 1))}),
        "options.previous_actions.arm: found float64 (5, 4), expected finite numbers (rows, 3)",
    ),
    "previous rows": (
        continued(previous_actions={"arm": np.zeros((5, 3)), "gripper": np.zeros((4, 1))}),
        "options.previous_actions: keys have different numbers of rows",
    ),
    "previous nan": (
        continued(previous_actions={"arm": np.full((5, 3), np.nan), "gripper": np.zeros((5, 1))}),
        "options.previous_actions.arm: found float64 (5, 3), expected finite",
    ),
    "continued batch": (
        {"data": {**nested(batch=2)["data"], "options": continued()["data"]["options"]}},
        "options: a chunk to continue, and 2 samples",
    ),
    "client": ({"endpoint": "ping", "client": 5}, "client: found int, expected a map"),
    "validity": ({"endpoint": "ping", "client": {"valid_s": "x"}}, "client.valid_s: found str, expected seconds"),
    "wire": ({"endpoint": "ping", "client": {"wire": np.zeros(2)}}, "client.wire: found ndarray, expected one of n1.5"),
    "kill": ({"endpoint": "kill"}, "kill: not allowed"),
    "fault": (nested(language={"task": [["fail"]]}), "internal error: RuntimeError: the device has left"),
}


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_requests_are_named_and_do_no_harm(serving, asking, name):
    content, words = MALFORMED[name]
    if name == "damaged file":
        pytest.importorskip("cv2")
    assert words in asking.error(content)
    assert asking.ask({"endpoint": "ping"}) == {"status": "ok", "message": "Server is running"}
    assert asking.ask({"endpoint": "health"})["requests"]["refused"] == 1


def test_frames_that_are_no_request(serving):
    def say(kind, *frames):
        with Asking(serving.port, kind) as asking:
            asking.socket.send_multipart(frames)
            return [frame for frame in asking.socket.recv_multipart() if frame]

    assert "not msgpack" in unpack(say(zmq.REQ, b"\xc1")[0])[0]["error"]
    assert "message of 2 parts" in unpack(say(zmq.REQ, b"a", b"b")[0])[0]["error"]
    assert "not msgpack" in unpack(say(zmq.DEALER, b"", b"")[0])[0]["error"]
    assert "message of 0 parts" in unpack(say(zmq.DEALER, b"")[0])[0]["error"]
    ping = pack({"endpoint": "ping"}, Wire.N1_7)
    assert unpack(say(zmq.DEALER, ping)[0])[0]["status"] == "ok"  # without the empty frame of a REQ socket
    assert say(zmq.DEALER, b"number 5", b"", ping)[0] == b"number 5"  # the way back of a proxy
    with socket.create_connection(("127.0.0.1", serving.port)) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: robot\r\n\r\n" + bytes(1000))
        plain.settimeout(PATIENCE_S)
        while plain.recv(1000):
            pass  # until the server ends it
    with Asking(serving.port) as asking:
        assert asking.ask({"endpoint": "ping"})["status"] == "ok"


def test_too_long_requests_get_an_answer():
    with Serving(SumPolicy(), max_request_mib=1) as serving, Asking(serving.port) as asking:
        assert "(limit 1048576)" in unpack(asking(bytes(2**20 + 1)))[0]["error"]
        assert asking.ask({"endpoint": "ping"})["status"] == "ok"
        with serving.client() as client:
            with pytest.raises(ServerError, match=r"request of \d+ bytes .limit 1048576.; .*--max-request-mib"):
                client.infer_batch([make_observation()] * 300)  # refused before it is sent
            client.infer(make_observation())
            assert client.count_losses() == 0


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.sampled_from([np.zeros((1, 1, 3)), np.zeros((1, 3), np.uint8), np.array("x"), np.zeros(0)]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.slow
def test_strange_requests_are_answered(asking, data):
    request = nested() if data.draw(st.booleans()) else flat()
    place = request
    while isinstance(place, dict):
        key = data.draw(st.sampled_from(sorted(place)))
        inner = place[key]
        if isinstance(inner, dict) and data.draw(st.booleans()):
            place = inner
            continue
        place[key] = data.draw(VALUES)
        break
    message = bytearray(pack(request, data.draw(st.sampled_from(list(Wire)))))
    if data.draw(st.booleans()):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    assert unpack(asking(bytes(message)))[0] is not None
    assert asking.ask({"endpoint": "ping"})["status"] == "ok"


# --- access


def test_tokens_are_wanted_everywhere():
    with Serving(SumPolicy(), token="sécret", allow_kill=True) as serving, Asking(serving.port) as asking:
        for token in (None, "", "secret", "sécret ", 5, b"s\xc3\xa9cret", ["sécret"]):
            for endpoint in ("ping", "health", "get_action", "kill", "nosuch"):
                error = asking.error({"endpoint": endpoint, "api_token": token})
                assert error == "Unauthorized: Invalid API token"
        assert asking.ask({"endpoint": "ping", "api_token": "sécret"})["status"] == "ok"
        with serving.client(token="wrong") as client, pytest.raises(ServerError, match="Unauthorized"):
            client.infer(make_observation())
        with serving.client(token="sécret") as client:
            client.infer(make_observation())


def test_other_machines_need_a_token():
    for host in ("127.0.0.1", "127.9.9.9", "::1"):
        check_exposure(host, None, False)
    for host in ("0.0.0.0", "192.168.1.5", "::", "fe80::1%eth0"):
        with pytest.raises(ConfigError, match=r"without a token; give one .GR00T_API_TOKEN or --token-file."):
            check_exposure(host, None, False)
        check_exposure(host, "secret", False)
        check_exposure(host, None, True)
    for host in ("0.0.0.0", "*"):
        with pytest.raises(ConfigError, match="without a token"):
            PolicyServer(SumPolicy(), ServerSettings(host=host, port=0))
    with Serving(SumPolicy(), host="localhost") as serving:
        assert serving.server.address == f"tcp://127.0.0.1:{serving.port}"
    with pytest.raises(ConfigError, match=r"host 'no\.such\.host\.invalid': unknown"):
        PolicyServer(SumPolicy(), ServerSettings(host="no.such.host.invalid", port=0))


def test_where_a_token_comes_from(tmp_path, monkeypatch):
    monkeypatch.delenv("GR00T_API_TOKEN", raising=False)
    assert find_token() is None
    monkeypatch.setenv("GR00T_API_TOKEN", "from environment")
    (tmp_path / "token").write_text("from file\n")
    (tmp_path / "token").chmod(0o600)
    assert find_token() == "from environment"
    assert find_token(None, tmp_path / "token") == "from file"
    assert find_token("given", tmp_path / "token") == "given"
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "empty").chmod(0o600)
    with pytest.raises(ConfigError, match="empty: is empty, expected a token"):
        find_token(None, tmp_path / "empty")
    with pytest.raises(ConfigError, match="nowhere: cannot be read"):
        find_token(None, tmp_path / "nowhere")


def test_a_port_in_use_is_named(serving):
    with pytest.raises(ConfigError, match=f"127.0.0.1:{serving.port}: cannot listen .Address already in use."):
        PolicyServer(SumPolicy(), ServerSettings(port=serving.port))


# --- several clients, time, loss


def test_signs_of_life_while_an_inference_runs(serving):
    with serving.client() as slow, serving.client() as other:
        results = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: results.put(slow.infer(make_observation(text="wait"))))
        thread.start()
        assert serving.policy.is_held.wait(PATIENCE_S)
        other.ping()
        assert other.health()["requests"]["waiting"] == 1
        assert other.modality_config()["state"].modality_keys == ("arm", "gripper")
        serving.policy.release.set()
        thread.join(PATIENCE_S)
        assert results.get().horizon == 16
        health = other.health()
    assert health["requests"] == {"answered": 1, "refused": 0, "expired": 0, "waiting": 0}
    assert 0 < health["latency_s"]["p50"] <= health["latency_s"]["max"] < PATIENCE_S
    assert (health["server"], health["name"], health["status"]) == ("gr00t_serve", "test", "ok")
    assert health["fingerprint"] == EMBODIMENT.fingerprint()
    assert health["uptime_s"] > 0


@BOTH
def test_clients_do_not_get_each_others_answers(serving, wire):
    def drive(start):
        with serving.client(wire=wire) as client:
            for i in range(20):
                chunk = client.infer(make_observation(start + i, stamp_ns=i))
                assert chunk.start_ns == i
                assert chunk.actions["arm"][0, 0] == start + i
        done.put(start)

    done: queue.SimpleQueue[float] = queue.SimpleQueue()
    threads = [threading.Thread(target=drive, args=(start,)) for start in (0.25, 1000.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert {done.get_nowait(), done.get_nowait()} == {0.25, 1000.0}


def test_threads_may_share_a_client(serving):
    answers = {}
    with serving.client() as client:

        def ask(start):
            answers[start] = client.infer(make_observation(start)).actions["arm"][0, 0]

        threads = [threading.Thread(target=ask, args=(float(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert answers == {float(i): float(i) for i in range(8)}


def test_a_late_answer_is_never_taken_for_a_newer_request(serving):
    with serving.client() as client:
        client.check_embodiment()  # a connection takes its time on a loaded machine
        client._timeout_s = 1.0
        with pytest.raises(ServerError, match=r"no answer in time; .* \(get_action, limit 1 s\)"):
            client.infer(make_observation(1.0, "wait"))
        with pytest.raises(ServerError, match="no answer in time"):
            client.infer(make_observation(2.0))  # waits behind the first, in vain
        client._timeout_s = PATIENCE_S
        serving.policy.release.set()
        with serving.client() as patient:
            patient.ping()
            assert patient.infer(make_observation(4.0)).actions["arm"][0, 0] == 4.0
            assert patient.health()["requests"] == {"answered": 2, "refused": 0, "expired": 1, "waiting": 0}
        for start in (5.0, 6.0):
            assert client.infer(make_observation(start)).actions["arm"][0, 0] == start
    assert [observation.state["arm"][0, 0] for observation in serving.policy.asked] == [1.0, 4.0, 5.0, 6.0]


def test_too_many_waiting_requests_are_refused(serving):
    count = server_module.MAX_WAITING
    with Asking(serving.port, zmq.DEALER) as asking:
        request = pack(nested(language={"task": [["wait"]]}), Wire.N1_7)
        for _ in range(count + 1):
            asking.socket.send_multipart([b"", request])
        assert f"busy: {count} requests wait" in unpack(asking.socket.recv_multipart()[1])[0]["error"]
        serving.policy.release.set()
        for _ in range(count):
            assert isinstance(unpack(asking.socket.recv_multipart()[1])[0], list)


def test_a_lost_server_is_noticed_and_found_again():
    policy = SumPolicy()
    with Serving(policy) as serving:
        port = serving.port
        client = serving.client(timeout_s=PATIENCE_S)
        client.infer(make_observation())
    with client:
        # nobody there
        started_s = time.monotonic()
        with pytest.raises(ServerError, match="no policy server reached"):
            client.infer(make_observation())
        assert time.monotonic() - started_s < PATIENCE_S / 2  # it does not wait for the time limit
        # back again
        with Serving(policy, port=port):
            assert client.infer(make_observation(3.0)).actions["arm"][0, 0] == 3.0


def test_a_client_that_keeps_asking_recovers():
    policy = SumPolicy()
    with Serving(policy) as serving, serving.client() as client:
        client.infer(make_observation())
        serving.server.stop()
        serving.thread.join(PATIENCE_S)
        for _ in range(2):
            with pytest.raises(ServerError):
                client.infer(make_observation())

        def answer():
            with contextlib.suppress(ServerError):
                return client.infer(make_observation(3.0)).actions["arm"][0, 0]

        with Serving(policy, port=serving.port):
            assert eventually(answer, "an answer from the new server") == 3.0


def test_a_server_that_dies_while_it_computes_is_noticed_at_once():
    context = zmq.Context()
    silent = context.socket(zmq.ROUTER)
    port = silent.bind_to_random_port("tcp://127.0.0.1")
    failures = queue.SimpleQueue()

    def ask():
        with PolicyClient(EMBODIMENT, port=port, timeout_s=60.0) as client:
            try:
                client.ping()
            except ServerError as error:
                failures.put(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert silent.poll(round(PATIENCE_S * 1000))
    context.destroy(0)
    thread.join(PATIENCE_S)
    assert "connection lost before the answer (ping, limit 60 s)" in failures.get_nowait()


def test_what_listens_but_is_no_policy_server():
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        PolicyClient(EMBODIMENT, port=mute.getsockname()[1], timeout_s=0.3) as client,
        pytest.raises(ServerError, match="no policy server reached; check that it runs"),
    ):
        client.infer(make_observation())
    for options in ({"host": ""}, {"port": 0}, {"port": 70_000}, {"timeout_s": 0}, {"timeout_s": float("nan")}):
        with pytest.raises(ConfigError, match="expected a name or address"):
            PolicyClient(EMBODIMENT, **options)
    with PolicyClient(EMBODIMENT, host="no such host") as client, pytest.raises(ServerError, match="no address"):
        client.ping()
    with (
        Recorded({}) as server,
        PolicyClient(EMBODIMENT, port=server.port) as client,
        pytest.raises(ServerError, match="health was refused: not recorded"),
    ):
        client.infer(make_observation())


def test_another_robot_behind_the_same_address_is_refused():
    other = dataclasses.replace(EMBODIMENT, fps=30, action_horizon=8)
    with Serving(SumPolicy()) as serving:
        client = serving.client()
        client.infer(make_observation())
    with client, Serving(SumPolicy(other), port=serving.port):
        for call in (client.check_embodiment, client.reset, lambda: client.infer(make_observation())):
            with pytest.raises(ServerError, match="serves another embodiment") as caught:
                call()
            assert "fps: found 30, expected 20" in str(caught.value)
            assert "action_horizon: found 8, expected 16" in str(caught.value)


def test_missing_inputs_are_the_clients_fault(serving):
    with serving.client() as client:
        with pytest.raises(ObservationError, match=r"video\.front: missing"):
            client.infer(dataclasses.replace(make_observation(), images={}))
        longer = {"arm": np.zeros((2, 3)), "gripper": np.zeros((1, 1))}
        with pytest.raises(ObservationError, match=r"state\.arm: shapes .* differ within the batch"):
            client.infer_batch([make_observation(), dataclasses.replace(make_observation(), state=longer)])
        client.infer(make_observation())


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads and files are counted in /proc")
def test_nothing_is_left_behind():
    def count():
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), threading.active_count()

    def is_back():  # what an earlier test left may go meanwhile
        return all(now <= then for now, then in zip(count(), before, strict=True))

    before = count()
    for _ in range(2):
        with Serving(SumPolicy()) as serving, serving.client() as client, serving.client(timeout_s=0.5) as hasty:
            client.infer(make_observation())
            with pytest.raises(ServerError):
                hasty.infer(make_observation(text="wait"))
        with pytest.raises(ConfigError):
            PolicyServer(SumPolicy(), ServerSettings(host="0.0.0.0", port=0))
        with PolicyClient(EMBODIMENT, port=serving.port, timeout_s=0.05) as client, pytest.raises(ServerError):
            client.ping()
        PolicyServer(SumPolicy(), ServerSettings(port=0)).close()  # never served
    # a thread that was joined is still there for a moment
    eventually(is_back, lambda: f"{count()}, before {before}")


def test_requests_that_wait_at_the_end_are_told(serving):
    with Asking(serving.port, zmq.DEALER) as asking:
        for text in ("wait", "lift"):
            asking.socket.send_multipart([b"", pack(nested(language={"task": [[text]]}), Wire.N1_7)])
        with serving.client() as client:
            eventually(lambda: client.health()["requests"]["waiting"] == 2, "both wait")
        assert serving.policy.is_held.wait(PATIENCE_S)
        serving.server.stop()
        serving.policy.release.set()
        assert isinstance(unpack(asking.socket.recv_multipart()[1])[0], list)  # the one that was running
        assert unpack(asking.socket.recv_multipart()[1])[0] == {"error": "gr00t_serve is shutting down"}
    serving.thread.join(PATIENCE_S)
    assert not serving.thread.is_alive()


# --- with a model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return make_checkpoint(tmp_path_factory.mktemp("serve") / "compact", EMBODIMENT)


def make_observations(count):
    rng = np.random.default_rng(3)
    return [
        Observation(
            {"front": rng.integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)},
            {"arm": rng.normal(size=(1, 3)), "gripper": rng.normal(size=(1, 1))},
            f"lift cube {i}",
            i,
        )
        for i in range(count)
    ]


def assert_same(found, expected):
    assert (found.start_ns, found.step_ns) == (expected.start_ns, expected.step_ns)
    assert list(found.actions) == list(expected.actions)
    for key, values in expected.actions.items():
        assert found.actions[key].dtype == values.dtype
        np.testing.assert_array_equal(found.actions[key], values)


def test_client_answers_exactly_as_the_policy(checkpoint):
    from gr00t_training.policy.policy import Policy

    def load():
        return Policy.from_checkpoint(checkpoint, device="cpu", seed=7, denoising_steps=2)

    observations = make_observations(3)
    local = load()
    expected = [local.infer(observation) for observation in observations]
    expected += local.infer_batch(observations)
    later = dataclasses.replace(observations[0], stamp_ns=120_000_000)
    expected.append(local.infer(later, Continuation(expected[0], frozen_steps=4)))
    forms = [ImageForm.RAW]
    with contextlib.suppress(ImportError):
        import cv2  # noqa: F401

        forms.append(ImageForm.PNG)
    served = load()
    served.release = threading.Event()
    with Serving(served) as serving:
        for wire in Wire:
            for form in forms:
                with serving.client(wire=wire, images=form) as client:
                    client.reset()
                    found = [client.infer(observation) for observation in observations]
                    found += client.infer_batch(observations)
                    if wire is Wire.N1_7:
                        found.append(client.infer(later, Continuation(found[0], frozen_steps=4)))
                wanted = expected if wire is Wire.N1_7 else expected[:-1]  # only N1.7 has options
                for one, other in zip(found, wanted, strict=True):
                    assert_same(one, other)
        with serving.client() as client:
            wrong = dataclasses.replace(observations[0], images={"front": np.zeros((1, 16, 16, 3), np.uint8)})
            with pytest.raises(ServerError, match=r"get_action was refused: video\.front: .*32, 48, 3"):
                client.infer(wrong)


@contextlib.contextmanager
def command(*arguments):
    words = [python(), "-m", "gr00t_training.cli.serve", *map(str, arguments)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.slow
def test_command_serves_until_a_signal(checkpoint, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "token").chmod(0o600)
    options = ["--port", "0", "--device", "cpu", "--denoising-steps", "1", "--token-file", tmp_path / "token"]
    with command(checkpoint, *options) as first, command(checkpoint, *options) as second:
        for child, number in ((first, signal.SIGTERM), (second, signal.SIGINT)):
            line = child.stdout.readline()
            assert line.startswith("gr00t_serve: ready at tcp://127.0.0.1:")
            assert line.endswith(
                f": compact (gr00t_n1), embodiment test_arm ({EMBODIMENT.fingerprint()}), token required\n"
            )
            with PolicyClient(EMBODIMENT, port=int(line.split(":")[3]), token="secret") as client:
                assert client.infer(make_observation()).horizon == 16
                assert client.health()["model"] == "gr00t_n1"
            child.send_signal(number)
            output, errors = child.communicate(timeout=PATIENCE_S)
            assert (child.returncode, output) == (0, "")
            assert "Traceback" not in errors and "error" not in errors


def test_command_ends_cleanly_while_it_loads(checkpoint, capsys, monkeypatch):
    from gr00t_training.cli import serve

    monkeypatch.setattr(serve.Policy, "from_checkpoint", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert serve.main([str(checkpoint)]) == 143
    assert capsys.readouterr() == ("", "gr00t_serve: interrupted\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "without a token; give one"),
        (["--port", "70000"], "port is 70000, expected 0 to 65535"),
        (["--token-file", "/nowhere"], "/nowhere: cannot be read"),
        (["--device", "toaster"], "device 'toaster'"),
        (["--embodiment", "nobody"], "nobody"),
    ],
)
def test_command_errors_are_one_line(checkpoint, capsys, monkeypatch, options, words):
    from gr00t_training.cli import serve

    monkeypatch.delenv("GR00T_API_TOKEN", raising=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert serve.main([str(checkpoint), *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("gr00t_serve: error: ") and words in lines[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
