# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything that a policy node has between configure and cleanup.

Five threads: the executor (control ticks, services), the two of the ingest (messages), the inference loop, and one that
summarizes what the timers measured. A control tick waits for none of the others.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from gr00t_msgs.msg import ActionChunk as ActionChunkMsg
from gr00t_msgs.msg import CommandSource as CommandSourceMsg
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.state import HoldCause
from gr00t_policy_node.inference.delay import DelayedAnswers
from gr00t_policy_node.inference.loop import InferenceLoop
from gr00t_policy_node.observing import Observer
from gr00t_policy_node.ros.course_server import CourseServer
from gr00t_policy_node.ros.diagnostics import SOURCES
from gr00t_policy_node.ros.messages import ChunkCodec
from gr00t_policy_node.ros.outputs import CommandOutputs
from gr00t_policy_node.ros.parameters import PolicyParameters
from gr00t_policy_node.ros.status_publisher import StatusPublisher
from gr00t_policy_node.ros.task_server import TaskServer
from gr00t_policy_node.ros.teleop_server import TeleopServer
from gr00t_policy_node.timing import Stage, StageTimers, TickWatch
from gr00t_recorder.ros.clock_watch import ClockWatch, create_steady_timer
from gr00t_recorder.ros.ingest import TopicIngest
from gr00t_recorder.ros.parameters import read
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.io.text import printable
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.client import PolicyClient
from gr00t_training.types import ActionChunk, Continuation, Observation

STALL_PERIOD_S = 0.1  # of the ticks on the steady clock while the node's clock does not advance
EXPECTED_LATENCY = 0.95  # share of latencies that a continued chunk allows for


@dataclass(frozen=True)
class RuntimeParts:
    """What a runtime connects: loaded, and checked against each other."""

    settings: PolicyParameters
    topic_map: TopicMap
    inputs: TopicMap  # the part of it that the policy needs
    embodiment: Embodiment
    controller: Controller
    policy: PolicyLike


class PolicyRuntime:
    """Model, inputs, outputs and the control loop."""

    def __init__(self, node: LifecycleNode, parts: RuntimeParts) -> None:
        """Create threads, publishers and services, and subscribe.

        Raises:
            Gr00tError: a message type is not installed, or the parts do not fit together.
        """
        settings, inputs, policy = parts.settings, parts.inputs, parts.policy
        self._node = node
        self._settings = settings
        self._embodiment = parts.embodiment
        self._controller = parts.controller
        self._timers = StageTimers(inputs.streams)
        self._camera_streams = {binding.stream for binding in inputs.video.values()}
        self._sequence = 0
        self._noise_seed = -1  # of a task that has just begun; -1: the noise goes on
        self._client = policy if isinstance(policy, PolicyClient) else None
        self._losses = 0  # of its server
        self._delay_ns = round(settings.answer_delay_ticks * 1e9 / settings.control_rate_hz)
        self._delayed = DelayedAnswers()
        self._is_active = self._was_asked = False
        self._clock_watch = ClockWatch(node, settings.max_clock_stall_s)
        with ExitStack() as opened:  # closes what exists when the rest fails
            if self._client is not None:
                opened.callback(self._client.close)
            self._observer = Observer(
                inputs,
                self._embodiment,
                policy,
                max_state_ranges=settings.max_state_ranges,
                timers=self._timers,
                clock_ns=self._now_ns,
            )
            self._loop = InferenceLoop(
                partial(self._infer, policy),
                self._observe,
                on_chunk=self._on_chunk,
                on_refusal=self._on_refusal,
                on_failure=self._controller.fail,
                continue_from=self._continuation,
                period_s=max(settings.inference_period_s, self._delay_ns / 1e9),  # one query at a time
                is_paced_by_stamp=bool(node.get_parameter("use_sim_time").value),
            )
            opened.callback(self._loop.close)
            self._ingest = TopicIngest(
                node,
                inputs.streams,
                self._observer.assembler,
                on_message=self._on_message,
                on_timed=partial(self._timers.add, Stage.INGEST),
            )
            opened.callback(self._ingest.close)
            self._create_interfaces(parts.topic_map, opened)
            self._opened = opened.pop_all()

    def invalid_inputs(self) -> list[str]:
        """Return what is wrong with inputs that arrive but cannot be used; those that are missing may still come."""
        return self._observer.invalid()

    def activate(self, instruction: str) -> None:
        """Begin to command as soon as there is a task."""
        self._observer.forget()
        self._controller.disengage()  # who engaged before knows nothing of a robot that moves now
        self._is_active = self._tasks.is_active = self._teleop.is_active = self._courses.is_active = True
        self._tick_watch = TickWatch(self._control_timer.timer_period_ns)
        self._control_timer.reset()
        if not instruction:
            return
        refusal = self._tasks.start(instruction)
        if refusal.error_code:
            shown = printable(instruction)
            self._node.get_logger().warning(f"instruction '{shown}' is not followed: {refusal.error_msg}")

    def deactivate(self) -> None:
        """End the task with the robot at rest; publishers still work."""
        if not self._is_active:
            return
        self._tasks.is_active = self._teleop.is_active = self._courses.is_active = False
        self._control_timer.cancel()
        last = self._controller.last_command  # before the goal ends: its end forgets the command
        self._tasks.abandon("the node was deactivated")
        self._courses.abandon("the node was deactivated")
        self._controller.disengage()
        self._controller.finish("deactivated")
        for last in self._controller.braking():
            self._outputs.send(last, self._now_ns())
            time.sleep(1.0 / self._settings.control_rate_hz)
        self._outputs.send(last, self._now_ns())
        self._on_control_tick()  # updates the loop and the status
        self._outputs.halt()  # a stop that is latched commands to the end
        self._is_active = False

    def close(self) -> None:
        """End the threads and destroy the interfaces; the newest first."""
        self._opened.close()

    def _create_interfaces(self, topic_map: TopicMap, opened: ExitStack) -> None:
        node, rate_hz = self._node, self._settings.control_rate_hz

        def publisher(message_type: Any, topic: str, qos: int) -> Any:
            created: Any = node.create_lifecycle_publisher(message_type, topic, qos)
            opened.callback(node.destroy_lifecycle_publisher, created)
            return created

        self._chunk_codec = ChunkCodec(self._embodiment)
        self._chunk_publisher = publisher(ActionChunkMsg, "~/action_chunk", 5)
        self._source_publisher = publisher(CommandSourceMsg, "~/command_source", 10)
        commands = () if self._settings.dry_run else topic_map.commands
        self._outputs = CommandOutputs(node, commands, self._controller.keys, round(1e9 / rate_hz))
        opened.callback(self._outputs.close)
        self._status = StatusPublisher(
            node,
            self._embodiment.name,
            self._controller,
            self._observer,
            self._timers,
            input_fault=lambda: self._input_fault(self._now_ns())[0],
            topic_name=self._ingest.topic_name,
        )
        opened.callback(self._status.close)
        self._tasks = TaskServer(
            node,
            self._controller,
            self._timers,
            on_change=self._status.publish,
            on_task=self._begin_task,
            stop_topic=self._settings.stop_topic,
        )
        opened.callback(self._tasks.close)
        self._courses = CourseServer(
            node,
            self._controller,
            self._status.publish,
            motion_speed=self._settings.motion_speed,
            units={name: vector.unit for vector in self._embodiment.action.values() for name in vector.names},
        )
        opened.callback(self._courses.close)
        self._teleop = TeleopServer(node, self._controller, self._now_ns)
        opened.callback(self._teleop.close)
        self._control_timer = node.create_timer(1.0 / rate_hz, self._on_control_timer)
        self._control_timer.cancel()  # nothing is due before activation, so a long transition delays nothing
        opened.callback(node.destroy_timer, self._control_timer)
        self._tick_watch = TickWatch(self._control_timer.timer_period_ns)
        # a clock that does not advance must not keep a watchdog from its work
        opened.callback(node.destroy_timer, create_steady_timer(node, STALL_PERIOD_S, self._on_steady_timer))

    # In the ingest's thread.

    def _on_message(self, stream: str, message: Any, receive_ns: int) -> None:
        stamp_ns = stamp_of(message)
        if stamp_ns:
            self._timers.add_received(stream, (receive_ns - stamp_ns) / 1e9)
        if stream in self._camera_streams:  # an observation's time is that of an image
            self._loop.wake()

    # In the inference thread.

    def _observe(self) -> Observation:
        stall = self._clock_watch.fault()
        if stall:
            raise ObservationError(stall)
        return self._observer.observe(self._controller.report().instruction)

    def _infer(self, policy: PolicyLike, observation: Observation, continuation: Continuation | None) -> ActionChunk:
        seed, self._noise_seed = self._noise_seed, -1
        if seed >= 0 and self._client is None:  # a server has its own
            policy.reset(seed)
        return policy.infer(observation, continuation)

    def _on_chunk(self, chunk: ActionChunk, observation: Observation, latency_s: float) -> None:
        answered_s = time.perf_counter()
        if not self._offer(chunk, observation.instruction):
            return
        age_s = max(self._now_ns() - chunk.start_ns, self._delay_ns) / 1e9
        self._sequence += 1
        message = self._chunk_codec.encode(chunk)
        message.sequence = self._sequence
        message.inference_latency, message.observation_latency = latency_s, age_s
        self._chunk_publisher.publish(message)
        published_s = time.perf_counter()
        begun_s, timers = self._observer.count_use(), self._timers
        reported_s = chunk.timings_s or {Stage.INFER.value: latency_s}  # a server reports nothing
        for stage in (Stage.PREPROCESS, Stage.INFER):
            if stage.value in reported_s:
                timers.add(stage, reported_s[stage.value])
        timers.add(Stage.POLICY_CALL, latency_s)
        timers.add(Stage.PUBLISH, published_s - answered_s)
        timers.add(Stage.QUERY, published_s - begun_s)
        timers.add(Stage.OBSERVATION_TO_CHUNK, age_s)

    def _offer(self, chunk: ActionChunk, instruction: str) -> bool:
        """Give a chunk to the controller, now or when its delay is over; False when it is not executed."""
        now_ns, due_ns = self._now_ns(), chunk.start_ns + self._delay_ns
        if due_ns <= now_ns or not self._delay_ns:
            return self._controller.offer(chunk, instruction, now_ns)
        self._delayed.add(now_ns, due_ns, lambda: self._controller.offer(chunk, instruction, due_ns))
        return True

    def _continuation(self, observation: Observation) -> Continuation | None:
        """Return the chunk that the next one must continue; None in other modes."""
        self._delayed.release(observation.stamp_ns)
        (latency_s,) = self._timers.quantiles(Stage.OBSERVATION_TO_CHUNK, EXPECTED_LATENCY)
        return self._controller.continuation(observation.stamp_ns, max(latency_s, self._delay_ns / 1e9))

    def _on_refusal(self, reason: str) -> None:
        self._observer.count_refusal()
        self._controller.count_refused_observation()
        self._node.get_logger().warning(f"no inference: {reason}; holding", throttle_duration_sec=5.0)

    # In the executor's thread.

    def _begin_task(self) -> None:
        self._observer.begin_task()
        self._delayed.clear()
        self._noise_seed = read(self._node, PolicyParameters).seed

    def _on_control_timer(self) -> None:
        started_s = time.perf_counter()
        lateness_s, jitter_s = self._tick_watch.tick(self._now_ns())
        self._timers.add(Stage.TICK_LATENESS, lateness_s)
        self._timers.add(Stage.TICK_JITTER, jitter_s)
        if self._is_active:
            self._on_control_tick()
            self._timers.add(Stage.COMMAND, time.perf_counter() - started_s)

    def _on_steady_timer(self) -> None:
        """Tick while the node's clock, and so the control timer, does not advance; else publish pending changes."""
        if not self._is_active:
            return
        if self._clock_watch.fault():
            self._on_control_tick(STALL_PERIOD_S)
        else:
            self._status.publish_change()

    def _on_control_tick(self, steady_s: float | None = None) -> None:
        """Command once; `steady_s` is the time since the last tick while the node's clock does not advance."""
        is_asked = self._controller.is_policy_asked
        if is_asked != self._was_asked:
            self._loop.enable(is_asked)
            self._was_asked = is_asked
        self._notice_loss()
        now_ns = self._now_ns()
        self._delayed.release(now_ns)
        is_commanded = self._controller.is_commanded
        fault, cause = self._input_fault(now_ns) if is_commanded else ("", HoldCause.INPUT)
        output_fault = self._outputs.fault(now_ns) if is_commanded else ""
        pose = partial(self._observer.pose, self._controller.measured_names)
        command = self._controller.tick(now_ns, fault, pose, output_fault, cause=cause, elapsed_s=steady_s)
        self._outputs.send(command, now_ns)
        self._publish_source(now_ns)
        self._status.publish_change()

    def _publish_source(self, now_ns: int) -> None:
        report = self._controller.report()
        message = CommandSourceMsg(source=SOURCES[report.source], device=report.device)
        message.holds, message.clamps = report.num_holds, sum(report.clamps.values())
        message.header.stamp = Time(nanoseconds=now_ns).to_msg()
        self._source_publisher.publish(message)

    def _input_fault(self, now_ns: int) -> tuple[str, HoldCause]:
        """Return why the inputs cannot be used, empty if they can, and the kind of that."""
        stall = self._clock_watch.fault()
        if stall:
            return stall, HoldCause.CLOCK
        fault = self._observer.fault(now_ns)
        return fault, self._observer.cause(now_ns) if fault else HoldCause.INPUT

    def _notice_loss(self) -> None:
        """Drop the plan when the connection to the server is lost, without waiting for the next query."""
        losses = 0 if self._client is None else self._client.count_losses()
        if losses != self._losses:
            self._losses = losses
            self._controller.fail(f"server {self._settings.server}: connection lost; reconnecting")

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds
