# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The node behind the page: statuses to the board, requests to services and actions.

Everything that touches rclpy runs in the thread of the executor, except publishing, which any thread may do: a stop
does not wait for an answer of somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future as DoneLater
from concurrent.futures import InvalidStateError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from action_msgs.srv import CancelGoal
from gr00t_msgs.action import RunPolicy
from gr00t_msgs.msg import ActionChunk, EpisodeMarks, PolicyStatus, RecorderStatus, TeleopTarget
from gr00t_msgs.srv import (
    DiscardLastEpisode,
    MarkEpisode,
    RedoEpisode,
    SetInstruction,
    SetTask,
    StartEpisode,
    StopEpisode,
)
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.action.client import ActionClient
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from gr00t_bringup.views.joints import JointReader, JointRow
from gr00t_console.board import Board
from gr00t_console.robot import Answer, PolicyView
from gr00t_console.ros.messages import chunk_section, policy_section, policy_view, recorder_section
from gr00t_console.ros.node_facts import ABSENT, NodeFacts
from gr00t_console.ros.previews import Previews
from gr00t_console.steering import DEVICE
from gr00t_recorder.ros.status import ANSWERS
from gr00t_recorder.ros.terminal import marked, started, stopped, taken_back
from gr00t_recorder.topics.bindings import TopicMap

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ANSWER_TIMEOUT_S = 5.0
SAVE_TIMEOUT_S = 120.0  # of an episode
LOAD_TIMEOUT_S = 600.0  # of a model, which may come over the network
WRITING = ("active", "inactive", "activating", "deactivating")  # states in which a recorder has its dataset open
STOP_REPEATS = 3
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


@dataclass(frozen=True)
class BridgeSettings:
    """Which nodes, and files instead of those that the nodes name."""

    policy: str
    recorder: str
    topics_file: Path | None
    limits_file: Path | None
    picture_rate_hz: float


@dataclass(frozen=True)
class _Call:
    """How a request becomes a service call."""

    client: Any
    members: Callable[..., dict[str, Any]]
    describe: Callable[[Any], Answer]
    timeout_s: float = ANSWER_TIMEOUT_S


class RosRobot:
    """The `Robot` of a ROS graph."""

    def __init__(self, node: Node, board: Board, pictures: Board, settings: BridgeSettings) -> None:
        """Create the interfaces.

        Args:
            node: is spun by a thread of its own.
            board: takes statuses.
            pictures: takes pictures of cameras.
            settings: names and files.
        """
        self._node, self._board = node, board
        self.policy: PolicyView | None = None
        self.on_policy: Callable[[PolicyView], None] = lambda view: None  # called in the thread of the executor
        self.on_joints: Callable[[tuple[JointRow, ...]], None] = lambda rows: None
        self.on_recorder: Callable[[str], None] = lambda path: None  # of an active one, at each change of its episodes
        self._recorded: tuple[str, int] = ("", 0)
        self._holding: Any = None  # future of the newest hold
        self._goal: Any = None  # handle of the running task
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = node.create_guard_condition(self._work)
        self._previews = Previews(node, board, pictures, rate_hz=settings.picture_rate_hz)
        policy, recorder = settings.policy, settings.recorder
        self._stop = node.create_publisher(Bool, f"{policy}/stop", 10)
        self._targets = node.create_publisher(TeleopTarget, f"{policy}/teleop", 10)
        node.create_subscription(PolicyStatus, f"{policy}/status", self._on_policy, LATCHED)
        node.create_subscription(RecorderStatus, f"{recorder}/status", self._on_recorder, LATCHED)
        node.create_subscription(ActionChunk, f"{policy}/action_chunk", self._on_chunk, 1)
        self._run = ActionClient(node, RunPolicy, f"{policy}/run_policy")
        self._stop_service = node.create_client(Trigger, f"{policy}/stop")
        self._holds = {
            is_held: node.create_client(Trigger, f"{policy}/{'hold' if is_held else 'resume'}")
            for is_held in (True, False)
        }
        self._calls = self._make_calls(policy, recorder)
        paths = {"policy": policy, "recorder": recorder}
        self._changes = {name: node.create_client(ChangeState, f"{path}/change_state") for name, path in paths.items()}
        self._facts = NodeFacts(
            node,
            board,
            paths,
            topics_file=settings.topics_file,
            limits_file=settings.limits_file,
            on_lifecycle=self._on_lifecycle,
            on_robot=self._on_robot,
        )

    def stop(self) -> None:
        """Publish the emergency stop, and call its service as well."""
        for _ in range(STOP_REPEATS):
            self._stop.publish(Bool(data=True))
        self._order(self._call_stop)

    def hold(self, is_held: bool) -> None:
        """Call `~/hold` or `~/resume`."""
        self._order(partial(self._call_hold, self._holds[is_held]))

    @property
    def is_answer_due(self) -> bool:
        """Whether a hold is not done yet; the console does not end before."""
        return not self._orders.empty() or (self._holding is not None and not self._holding.done())

    def steer(self, rates: Mapping[str, float] | None) -> None:
        """Send what the page asks for as a person's device."""
        target = TeleopTarget(source=DEVICE, is_engaged=rates is not None)
        target.rate_names, target.rates = list(rates or {}), list((rates or {}).values())
        target.header.stamp = self._node.get_clock().now().to_msg()
        self._targets.publish(target)

    async def ask(self, name: str, **members: Any) -> Answer:
        """Call the service or action behind a request."""
        done: DoneLater[Answer] = DoneLater()
        timeout_s = self._calls[name].timeout_s if name in self._calls else ANSWER_TIMEOUT_S
        if members.get("transition") == "configure":
            timeout_s = LOAD_TIMEOUT_S
        self._order(partial(self._begin, name, members, done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(done), timeout_s)
        except asyncio.TimeoutError:
            return Answer(False, f"no answer within {timeout_s:g} s; see the log of the node")

    def close(self) -> None:
        """End the thread that looks at cameras."""
        self._previews.close()

    @property
    def checkpoint(self) -> str:
        """Checkpoint or server of the policy node; empty: not known."""
        return str(self.policy_values.get("checkpoint_path") or self.policy_values.get("server") or "")

    @property
    def policy_lifecycle(self) -> str:
        """State of the policy node's lifecycle; empty: not known."""
        return str(self.policy_values.get("lifecycle", ""))

    @property
    def policy_values(self) -> Mapping[str, Any]:
        """Parameters of the policy node, as far as they are known."""
        return self._facts.of("policy")

    def _make_calls(self, policy: str, recorder: str) -> dict[str, _Call]:
        client = self._node.create_client

        def none(**members: Any) -> dict[str, Any]:
            return members

        stop_episode = client(StopEpisode, f"{recorder}/stop_episode")
        return {
            "reset": _Call(client(Trigger, f"{policy}/reset"), none, lambda r: Answer(r.success, r.message)),
            "instruct": _Call(client(SetInstruction, f"{policy}/set_instruction"), none, _coded("instruction set")),
            "cancel": _Call(client(CancelGoal, f"{policy}/run_policy/_action/cancel_goal"), none, _cancelled),
            "set_policy": _Call(
                client(SetParametersAtomically, f"{policy}/set_parameters_atomically"),
                lambda values: {"parameters": [Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]},
                lambda r: Answer(r.result.successful, r.result.reason or "set"),
            ),
            "set_task": _Call(client(SetTask, f"{recorder}/set_task"), none, _coded("task set")),
            "episode_start": _Call(client(StartEpisode, f"{recorder}/start_episode"), none, _told(started)),
            "episode_keep": _Call(stop_episode, lambda: {"keep": True}, _told(stopped), SAVE_TIMEOUT_S),
            "episode_discard": _Call(stop_episode, lambda: {"keep": False}, _told(stopped), SAVE_TIMEOUT_S),
            "episode_redo": _Call(client(RedoEpisode, f"{recorder}/redo_episode"), none, _told(started)),
            "episode_take_back": _Call(
                client(DiscardLastEpisode, f"{recorder}/discard_last_episode"), none, _told(taken_back)
            ),
            "mark": _Call(client(MarkEpisode, f"{recorder}/mark_episode"), _marks, _told(marked)),
        }

    # In the thread of the executor.

    def _order(self, order: Callable[[], None]) -> None:
        """Have something done by the thread of the executor; from any thread."""
        self._orders.put(order)
        self._wake.trigger()

    def _work(self) -> None:
        while not self._orders.empty():
            self._orders.get_nowait()()

    def _begin(self, name: str, members: dict[str, Any], done: DoneLater[Answer]) -> None:
        if name == "run":
            self._start_task(members, done)
        elif name == "end_task":
            self._call("cancel", {}, done)
        elif name == "lifecycle":
            self._change_state(members, done)
        else:
            self._call(name, members, done)

    def _call(self, name: str, members: dict[str, Any], done: DoneLater[Answer]) -> None:
        call = self._calls[name]
        if not call.client.service_is_ready():
            _finish(done, Answer(False, f"{call.client.srv_name} is not available; is the node running?"))
            return
        request = call.client.srv_type.Request(**call.members(**members))
        _answer(call.client.call_async(request), call.describe, done)

    def _call_stop(self) -> None:
        if self._stop_service.service_is_ready():
            self._stop_service.call_async(Trigger.Request())

    def _call_hold(self, client: Any) -> None:
        if client.service_is_ready():  # else the operator sees that the node does not hold, and stops it
            self._holding = client.call_async(Trigger.Request())

    def _start_task(self, members: dict[str, Any], done: DoneLater[Answer]) -> None:
        instruction = members["instruction"]
        if self._goal is not None:
            self._call("instruct", {"instruction": instruction}, done)
            return
        if not self._run.server_is_ready():
            _finish(done, Answer(False, "no policy node is there; start and activate it"))
            return
        goal = RunPolicy.Goal(instruction=instruction, time_limit=members["time_limit_s"])
        sent = self._run.send_goal_async(goal, lambda feedback: _finish(done, Answer(True, "running")))
        sent.add_done_callback(partial(self._on_goal, done))

    def _on_goal(self, done: DoneLater[Answer], sent: Any) -> None:
        handle = sent.result()
        if handle is None or not handle.accepted:
            _finish(done, Answer(False, "the policy node did not take the task; see its log"))
            return
        self._goal = handle
        handle.get_result_async().add_done_callback(partial(self._on_result, done))

    def _on_result(self, done: DoneLater[Answer], ended: Any) -> None:
        self._goal = None
        result = ended.result().result
        if not done.done():  # refused: no feedback came before
            _finish(done, Answer(not result.error_code, result.error_msg or "ended"))
            return
        text = f"task ended after {result.duration:.1f} s, {result.chunks} chunks"
        self._board.post("notice", {"text": f"{text}{': ' if result.error_msg else ''}{result.error_msg}"})

    def _change_state(self, members: dict[str, Any], done: DoneLater[Answer]) -> None:
        client, number = self._changes.get(members["node"]), TRANSITIONS.get(members["transition"])
        if client is None or number is None:
            _finish(done, Answer(False, "no such node or transition; reload the page"))
        elif not client.service_is_ready():
            _finish(done, Answer(False, f"{client.srv_name} is not available; is the node running?"))
        else:
            request = ChangeState.Request(transition=Transition(id=number))
            refused = f"{members['transition']} was refused; see the log of the node"
            _answer(client.call_async(request), lambda r: Answer(r.success, "done" if r.success else refused), done)

    def _on_policy(self, status: PolicyStatus) -> None:
        self.policy = policy_view(status)
        self._board.post("policy", policy_section(status))
        self.on_policy(self.policy)

    def _on_recorder(self, status: RecorderStatus) -> None:
        self._board.post("recorder", recorder_section(status))
        self._note_recording(status.dataset_path, status.episodes)

    def _note_recording(self, path: str, num_episodes: int) -> None:
        if (path, num_episodes) != self._recorded:
            self._recorded = (path, num_episodes)
            self.on_recorder(path)

    def _on_chunk(self, chunk: ActionChunk) -> None:
        if self._board.num_readers:
            self._board.post("chunk", chunk_section(chunk))

    def _on_lifecycle(self, name: str, state: str) -> None:
        if name == "recorder" and state not in WRITING:
            self._note_recording("", 0)
        if name == "policy" and state == ABSENT and self.policy is not None:
            self.policy = None
            self._board.post("policy", None)

    def _on_robot(self, topic_map: TopicMap, reader: JointReader) -> None:
        self._previews.show(topic_map, reader)
        self.on_joints(reader.rows)


def _marks(success: bool | None, valid: bool | None, note: str) -> dict[str, Any]:
    return {"marks": EpisodeMarks(success=ANSWERS[success], valid=ANSWERS[valid], note=note), "episode_index": -1}


def _told(describe: Callable[[Any], str]) -> Callable[[Any], Answer]:
    return lambda response: Answer(not response.error_code, describe(response))


def _coded(text: str) -> Callable[[Any], Answer]:
    return lambda response: Answer(not response.error_code, response.error_msg or text)


def _cancelled(response: Any) -> Answer:
    if response.goals_canceling:
        return Answer(True, "task ended")
    return Answer(False, "no task of the action is running; a task that was set otherwise ends with stop and reset")


def _answer(future: Any, describe: Callable[[Any], Answer], done: DoneLater[Answer]) -> None:
    def tell(future: Any) -> None:
        error = future.exception()
        _finish(done, describe(future.result()) if error is None else Answer(False, f"failed: {error}"))

    future.add_done_callback(tell)


def _finish(done: DoneLater[Answer], answer: Answer) -> None:
    with contextlib.suppress(InvalidStateError):  # it has timed out, or was answered before
        done.set_result(answer)
