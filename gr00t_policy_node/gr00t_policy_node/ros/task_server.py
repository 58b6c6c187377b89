# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Control the task: instruction and stop by service or topic, the RunPolicy action, reset."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gr00t_msgs.action import RunPolicy
from gr00t_msgs.msg import ErrorCode
from gr00t_msgs.srv import SetInstruction
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.state import ControlState
from gr00t_policy_node.ros.diagnostics import STATES
from gr00t_policy_node.ros.waiting_goal import WaitingGoal
from gr00t_policy_node.timing import Stage, StageTimers
from gr00t_recorder.ros.clock_watch import create_steady_timer
from gr00t_recorder.ros.error_codes import TEXT_CODES
from gr00t_recorder.ros.latched import subscribe_latched
from gr00t_training.io.text import TextError, check_instruction, printable

GOAL_PERIOD_S = 0.1
NO_PROGRESS = -1.0  # without a time limit there is no share of it
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Not latched, so that every publisher is received: a reliable one reliably. A repeated stop does no harm.
STOP_QOS = (QoSProfile(depth=10), QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT))


class Answer(NamedTuple):
    """Whether a task has begun."""

    error_code: int = ErrorCode.NONE
    error_msg: str = ""


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
            on_task: called before every new task that is not refused.
            stop_topic: topic of the emergency stop; empty: none.
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
            node.create_service(Trigger, "~/hold", partial(self._hold, controller.hold, "held until ~/resume")),
            node.create_service(Trigger, "~/resume", partial(self._hold, controller.resume, "resumed")),
            node.create_service(Trigger, "~/reset", self._reset),
        ]
        self._subscriptions = subscribe_latched(node, String, "~/instruction", self._instruct)
        if stop_topic:
            for qos in STOP_QOS:
                self._subscriptions.append(node.create_subscription(Bool, stop_topic, self._stop_by_topic, qos))
        # a goal ends at its time limit even where /clock does not advance
        self._timer = create_steady_timer(node, GOAL_PERIOD_S, self._watch_goal)
        self._action = ActionServer(
            node, RunPolicy, "~/run_policy", self._execute, cancel_callback=lambda _: CancelResponse.ACCEPT
        )

    def start(self, instruction: str) -> Answer:
        """Begin a task; return why it cannot begin."""
        if not self.is_active:
            return Answer(ErrorCode.NOT_ACTIVE, "the node is not active; activate it first")
        try:
            instruction = check_instruction(instruction)
        except TextError as error:
            return Answer(TEXT_CODES[error.fault], str(error))
        try:
            # within: no query for the new task may show what was before it, and a refused one changes nothing
            self._controller.start(instruction, self._on_task)
        except ValueError as error:
            return Answer(ErrorCode.STOPPED, str(error))
        self._node.get_logger().info(f"instruction: {instruction}")
        self._on_change()
        return Answer()

    def abandon(self, reason: str, error_code: int = ErrorCode.DEACTIVATED) -> None:
        """End the running goal, if any, because the node stops."""
        if self._goal is not None:
            self._end(error_code, reason)

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
        response.error_code, response.error_msg = self.start(request.instruction)
        return response

    def _instruct(self, message: String) -> None:
        refusal = self.start(message.data)
        if refusal.error_code:
            shown = printable(message.data)
            self._node.get_logger().warning(f"instruction '{shown}' is not followed: {refusal.error_msg}")

    def _stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._controller.stop("stop service called")
        self._on_change()
        response.success, response.message = True, "stopped; holding until ~/reset is called"
        return response

    def _hold(
        self, change: Callable[[], None], done: str, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Begin or end a hold; refused where there is nothing to hold or to resume."""
        try:
            change()
        except ValueError as error:
            response.message = str(error)
            return response
        self._node.get_logger().info(f"{done} (service)")
        self._on_change()
        response.success, response.message = True, done
        return response

    def _stop_by_topic(self, message: Bool) -> None:
        if message.data and self._controller.report().state is not ControlState.STOPPED:  # it may repeat
            self._controller.stop("stop topic says stop")
            self._on_change()

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.abandon("reset service called", ErrorCode.CANCELLED)
        self._controller.reset()
        self._on_change()
        response.success, response.message = True, "idle; set an instruction to move"
        return response

    async def _execute(self, handle: ServerGoalHandle) -> RunPolicy.Result:
        refusal = Answer(ErrorCode.BUSY, "another goal is running; cancel it first")
        if not handle.request.time_limit >= 0.0:  # or not a number
            found = f"time_limit is {handle.request.time_limit}, expected 0 (no limit) or more seconds"
            refusal = Answer(ErrorCode.INVALID_NUMBER, found)
        elif self._goal is None:
            refusal = self.start(handle.request.instruction)
        if refusal.error_code:
            handle.abort()
            return RunPolicy.Result(error_code=refusal.error_code, error_msg=refusal.error_msg)
        self._goal = _Goal(handle, self._controller.report().chunks)
        result = await self._goal.result
        assert result is not None
        return result

    def _watch_goal(self) -> None:
        goal, report = self._goal, self._controller.report()
        if goal is None:
            return
        elapsed_s, time_limit_s = goal.duration_s, goal.handle.request.time_limit
        if goal.handle.is_cancel_requested:
            self._end(ErrorCode.CANCELLED, "")
        elif report.state is ControlState.STOPPED:
            self._end(ErrorCode.STOPPED, report.reason)
        elif 0 < time_limit_s <= elapsed_s:
            self._end(ErrorCode.TIME_LIMIT, "")
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
        result.chunks = self._controller.report().chunks - goal.chunks_before
        goal.end(result, is_success=error_code == ErrorCode.TIME_LIMIT)
        self._on_change()


class _Goal(WaitingGoal):
    def __init__(self, handle: ServerGoalHandle, chunks_before: int) -> None:
        super().__init__(handle)
        self.chunks_before = chunks_before
