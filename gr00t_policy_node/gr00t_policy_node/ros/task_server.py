# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Tell the controller what to do: instruction and stop by service or topic, the RunPolicy action, reset."""

from __future__ import annotations

from collections.abc import Callable

from gr00t_msgs.action import RunPolicy
from gr00t_msgs.srv import SetInstruction
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from gr00t_policy_node.control_state import ControlState
from gr00t_policy_node.controller import Controller
from gr00t_policy_node.ros.diagnostics import STATES
from gr00t_policy_node.timing import Stage, StageTimers

GOAL_PERIOD_S = 0.1
NO_PROGRESS = -1.0  # without a time limit there is no share of it
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STOP_QOS = QoSProfile(depth=10)  # reliable and not latched: every reliable publisher is heard


class TaskServer:
    """Services, topic and action of one node; refuses tasks until `is_active` is set."""

    def __init__(
        self,
        node: LifecycleNode,
        controller: Controller,
        timers: StageTimers,
        on_change: Callable[[], None],
        on_task: Callable[[], None],
        stop_topic: str,
    ) -> None:
        """Create the interfaces.

        Args:
            node: owner of the interfaces.
            controller: is started, finished, stopped and reset.
            timers: latencies, for the action's feedback.
            on_change: called after each change of the task.
            on_task: called before every new task.
            stop_topic: where an emergency stop is told; empty: nowhere.
        """
        self.is_active = False
        self._node = node
        self._controller = controller
        self._timers = timers
        self._on_change, self._on_task = on_change, on_task
        self._goal: _Goal | None = None
        self._services = [
            node.create_service(SetInstruction, "~/set_instruction", self._set_instruction),
            node.create_service(Trigger, "~/stop", self._stop),
            node.create_service(Trigger, "~/reset", self._reset),
        ]
        self._subscriptions = [node.create_subscription(String, "~/instruction", self._instruct, LATCHED)]
        if stop_topic:
            self._subscriptions.append(node.create_subscription(Bool, stop_topic, self._stop_by_topic, STOP_QOS))
        self._timer = node.create_timer(GOAL_PERIOD_S, self._watch_goal)
        self._action = ActionServer(
            node, RunPolicy, "~/run_policy", self._execute, cancel_callback=lambda _: CancelResponse.ACCEPT
        )

    def start(self, instruction: str) -> str:
        """Begin a task; return why it cannot begin, empty when it did."""
        if not self.is_active:
            return "the node is not active; activate it first"
        self._on_task()  # first: no query for the new task may show what was before it
        try:
            self._controller.start(instruction)
        except ValueError as error:
            return str(error)
        self._node.get_logger().info(f"instruction: {instruction}")
        self._on_change()
        return ""

    def abandon(self, reason: str) -> None:
        """End the running goal, if any, because the node ceases to work."""
        if self._goal is not None:
            self._end(RunPolicy.Result.STOPPED, reason)

    def close(self) -> None:
        """Destroy the interfaces."""
        self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for service in self._services:
            self._node.destroy_service(service)
        self._action.destroy()

    def _set_instruction(
        self, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> SetInstruction.Response:
        response.message = self.start(request.instruction)
        response.success = not response.message
        return response

    def _instruct(self, message: String) -> None:
        refusal = self.start(message.data)
        if refusal:
            self._node.get_logger().warning(f"instruction '{message.data}' is not followed: {refusal}")

    def _stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._controller.stop("stop service called")
        self._on_change()
        response.success, response.message = True, "stopped; holding until ~/reset is called"
        return response

    def _stop_by_topic(self, message: Bool) -> None:
        if message.data and self._controller.report().state is not ControlState.STOPPED:  # it may be repeated for long
            self._controller.stop("stop topic says stop")
            self._on_change()

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.abandon("reset service called")
        self._controller.reset()
        self._on_change()
        response.success, response.message = True, "idle; set an instruction to move"
        return response

    async def _execute(self, handle: ServerGoalHandle) -> RunPolicy.Result:
        result = RunPolicy.Result(error_code=RunPolicy.Result.NOT_READY)
        result.error_msg = "another goal is running; cancel it first" if self._goal else ""
        result.error_msg = result.error_msg or self.start(handle.request.instruction)
        if result.error_msg:
            handle.abort()
            return result
        self._goal = _Goal(handle, self._now_ns(), self._controller.report().chunks)
        # one executor thread: the goal waits as a coroutine, the timer below ends it
        result = await self._goal.result
        assert result is not None
        return result

    def _watch_goal(self) -> None:
        goal, report = self._goal, self._controller.report()
        if goal is None:
            return
        elapsed_s, time_limit_s = (self._now_ns() - goal.start_ns) / 1e9, goal.handle.request.time_limit
        if goal.handle.is_cancel_requested:
            self._end(RunPolicy.Result.CANCELLED, "")
        elif report.state is ControlState.STOPPED:
            self._end(RunPolicy.Result.STOPPED, report.reason)
        elif 0 < time_limit_s <= elapsed_s:
            self._end(RunPolicy.Result.TIME_LIMIT, "")
        else:
            feedback = RunPolicy.Feedback(duration=elapsed_s, state=STATES[report.state], reason=report.reason)
            feedback.progress = elapsed_s / time_limit_s if time_limit_s > 0 else NO_PROGRESS
            feedback.chunks = report.chunks - goal.chunks_before
            feedback.inference_latency = self._timers.newest(Stage.POLICY_CALL)
            feedback.observation_latency = self._timers.newest(Stage.OBSERVATION_TO_CHUNK)
            goal.handle.publish_feedback(feedback)

    def _end(self, error_code: int, error_msg: str) -> None:
        goal, self._goal = self._goal, None
        assert goal is not None
        self._controller.finish("no instruction")
        result = RunPolicy.Result(error_code=error_code, error_msg=error_msg)
        result.duration = (self._now_ns() - goal.start_ns) / 1e9
        result.chunks = self._controller.report().chunks - goal.chunks_before
        if error_code == RunPolicy.Result.CANCELLED:
            goal.handle.canceled()
        elif error_code == RunPolicy.Result.TIME_LIMIT:
            goal.handle.succeed()
        else:
            goal.handle.abort()
        goal.result.set_result(result)
        self._on_change()

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds


class _Goal:
    def __init__(self, handle: ServerGoalHandle, start_ns: int, chunks_before: int) -> None:
        self.handle, self.start_ns, self.chunks_before = handle, start_ns, chunks_before
        self.result: Future = Future()
