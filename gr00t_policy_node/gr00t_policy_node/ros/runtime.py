# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything that a policy node has between configure and cleanup.

Five threads: the executor (control ticks, services), the two of the ingest (messages), the inference loop, and one that
works out what the timers measured. A control tick waits for none of the others.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from gr00t_msgs.msg import ActionChunk as ActionChunkMsg
from gr00t_msgs.msg import PolicyStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher

from gr00t_policy_node.chunking import Execution
from gr00t_policy_node.control_state import ControlState, StopRules
from gr00t_policy_node.controller import Controller
from gr00t_policy_node.inference import InferenceLoop, Infers
from gr00t_policy_node.limits import JointLimit, LimitsFile
from gr00t_policy_node.observing import Observer, input_map
from gr00t_policy_node.policies import LocalPolicy, RemotePolicy, connect_remote, load_local
from gr00t_policy_node.ros.diagnostics import policy_diagnostics, policy_status
from gr00t_policy_node.ros.messages import ChunkCodec
from gr00t_policy_node.ros.outputs import CommandOutputs
from gr00t_policy_node.ros.parameters import PolicyParameters
from gr00t_policy_node.ros.robot_description import read_description, receive_description
from gr00t_policy_node.ros.task_server import LATCHED, TaskServer
from gr00t_policy_node.timing import Measurements, Stage, StageTimers, Summarizer, TickWatch
from gr00t_policy_node.urdf import channel_limits, limits_from_urdf
from gr00t_recorder.ros.ingest import TopicIngest
from gr00t_recorder.ros.status import diagnostic_array, stream_diagnostics, stream_statuses
from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_recorder.topics.codecs import stamp_of
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.serve.client import PolicyClient
from gr00t_training.settings import load_settings
from gr00t_training.types import ActionChunk, Continuation, Observation

STATUS_PERIOD_S = 1.0
EXPECTED_LATENCY = 0.95  # share of latencies that a continued chunk allows for


class PolicyRuntime:
    """Model, inputs, outputs and the control loop."""

    def __init__(self, node: LifecycleNode, settings: PolicyParameters) -> None:
        """Load and validate everything, then subscribe.

        Raises:
            Gr00tError: a file is missing or wrong, or checkpoint, topic map and limits do not fit together.
        """
        if not settings.topics_file:
            raise ConfigError("parameter 'topics_file' is empty; set it in the parameters file")
        if bool(settings.checkpoint_path) == bool(settings.server):
            found = "both are" if settings.server else "neither is"
            raise ConfigError(f"parameters 'checkpoint_path' and 'server': {found} set; set one of them")
        self._node = node
        self._settings = settings
        topic_map, self._embodiment = load_topic_map(settings.topics_file)
        inputs = input_map(topic_map)
        limits = load_settings(LimitsFile, settings.limits_file) if settings.limits_file else LimitsFile()
        self._controller = Controller(
            self._embodiment,
            limits.limits(channel_limits(described_limits(node, settings), self._embodiment)),
            1.0 / settings.control_rate_hz,
            execution=Execution(mode=settings.execution, curve=settings.curve, rtc_ramp_rate=settings.rtc_ramp_rate),
            stops=StopRules(
                max_input_gap_s=settings.max_input_gap_s,
                max_silence_s=settings.max_silence_s,
                max_violations=settings.max_violations,
                safe_pose=limits.safe_pose,
            ),
        )
        for warning in self._controller.warnings:
            node.get_logger().warning(warning)
        policy = load_policy(settings, self._embodiment)
        self._timers = StageTimers(inputs.streams)
        self._camera_streams = {binding.stream for binding in inputs.video.values()}
        self._sequence = 0
        self._client = policy if isinstance(policy, PolicyClient) else None
        self._losses = 0  # of its server
        self._is_active = self._was_wanted = False
        self._told = ""
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
                policy,
                self._observe,
                on_chunk=self._on_chunk,
                on_refusal=self._on_refusal,
                on_failure=self._controller.fail,
                continue_from=self._continuation,
                period_s=settings.inference_period_s,
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
            self._summarizer = Summarizer(self._measured, STATUS_PERIOD_S)
            opened.callback(self._summarizer.close)
            self._create_interfaces(topic_map, opened)
            self._opened = opened.pop_all()

    def invalid_inputs(self) -> list[str]:
        """Return what is wrong with inputs that arrive but cannot be used; those that are missing may still come."""
        return self._observer.invalid()

    def activate(self, instruction: str) -> None:
        """Begin to command as soon as there is a task."""
        self._observer.forget()
        self._is_active = self._tasks.is_active = True
        refusal = self._tasks.start(instruction) if instruction else ""
        if refusal:
            self._node.get_logger().warning(f"instruction '{instruction}' is not followed: {refusal}")

    def deactivate(self) -> None:
        """End the task with the robot at rest; publishers still work."""
        if not self._is_active:
            return
        self._tasks.is_active = False
        last = self._controller.last_command  # before the goal ends: its end forgets the command
        self._tasks.abandon("the node was deactivated")
        self._controller.finish("deactivated")
        for last in self._controller.braking():
            self._outputs.send(last, self._now_ns())
            time.sleep(1.0 / self._settings.control_rate_hz)
        self._outputs.send(last, self._now_ns())
        self._on_control_tick()  # tells the loop and the status
        self._outputs.halt()  # a stop that is latched commands to the end
        self._is_active = False

    def close(self) -> None:
        """End the threads and destroy the interfaces; the newest first."""
        self._opened.close()

    def _create_interfaces(self, topic_map: TopicMap, opened: ExitStack) -> None:
        node, rate_hz = self._node, self._settings.control_rate_hz

        def publisher(message_type: Any, topic: str, qos: int) -> Publisher:
            created = node.create_lifecycle_publisher(message_type, topic, qos)
            opened.callback(node.destroy_publisher, created)
            return created

        self._chunk_codec = ChunkCodec(self._embodiment)
        self._chunk_publisher = publisher(ActionChunkMsg, "~/action_chunk", 5)
        commands = () if self._settings.dry_run else topic_map.commands
        self._outputs = CommandOutputs(node, commands, self._controller.keys, round(1e9 / rate_hz))
        opened.callback(self._outputs.close)
        # these two speak in every lifecycle state
        self._status_publisher = node.create_publisher(PolicyStatus, "~/status", LATCHED)
        opened.callback(node.destroy_publisher, self._status_publisher)
        self._diagnostics_publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 5)
        opened.callback(node.destroy_publisher, self._diagnostics_publisher)
        self._tasks = TaskServer(
            node,
            self._controller,
            self._timers,
            on_change=self._publish_status,
            on_task=self._observer.begin_task,
            stop_topic=self._settings.stop_topic,
        )
        opened.callback(self._tasks.close)
        timer = node.create_timer(1.0 / rate_hz, self._on_control_timer)
        opened.callback(node.destroy_timer, timer)
        self._tick_watch = TickWatch(timer.timer_period_ns)
        opened.callback(node.destroy_timer, node.create_timer(STATUS_PERIOD_S, self._on_status_tick))

    # In the ingest's thread.

    def _on_message(self, stream: str, message: Any, receive_ns: int) -> None:
        stamp_ns = stamp_of(message)
        if stamp_ns:
            self._timers.add_received(stream, (receive_ns - stamp_ns) / 1e9)
        if stream in self._camera_streams:  # an observation's time is that of an image
            self._loop.wake()

    # In the summarizer's thread.

    def _measured(self) -> Measurements:
        return Measurements(tuple(self._timers.describe()), tuple(self._controller.jitter.describe()))

    # In the inference thread.

    def _observe(self) -> Observation:
        return self._observer.observe(self._controller.report().instruction)

    def _on_chunk(self, chunk: ActionChunk, observation: Observation, latency_s: float) -> None:
        answered_s = time.perf_counter()
        if not self._controller.offer(chunk, observation.instruction, self._now_ns()):
            return
        age_s = (self._now_ns() - chunk.start_ns) / 1e9
        self._sequence += 1
        message = self._chunk_codec.encode(chunk)
        message.sequence = self._sequence
        message.inference_latency, message.observation_latency = latency_s, age_s
        self._chunk_publisher.publish(message)
        published_s = time.perf_counter()
        begun_s, timers = self._observer.count_use(), self._timers
        told_s = chunk.timings_s or {Stage.INFER.value: latency_s}  # a server tells nothing
        for stage in (Stage.PREPROCESS, Stage.INFER):
            if stage.value in told_s:
                timers.add(stage, told_s[stage.value])
        timers.add(Stage.POLICY_CALL, latency_s)
        timers.add(Stage.PUBLISH, published_s - answered_s)
        timers.add(Stage.QUERY, published_s - begun_s)
        timers.add(Stage.OBSERVATION_TO_CHUNK, age_s)

    def _continuation(self, observation: Observation) -> Continuation | None:
        """Return the chunk that the next one is to continue; None unless the execution asks for that."""
        (latency_s,) = self._timers.quantiles(Stage.OBSERVATION_TO_CHUNK, EXPECTED_LATENCY)
        return self._controller.continuation(observation.stamp_ns, latency_s)

    def _on_refusal(self, reason: str) -> None:
        self._observer.count_refusal()
        self._controller.count_refused_observation()
        self._node.get_logger().warning(f"no inference: {reason}; holding", throttle_duration_sec=5.0)

    # In the executor's thread.

    def _on_control_timer(self) -> None:
        started_s = time.perf_counter()
        lateness_s, jitter_s = self._tick_watch.tick(self._now_ns())
        self._timers.add(Stage.TICK_LATENESS, lateness_s)
        self._timers.add(Stage.TICK_JITTER, jitter_s)
        if self._is_active:
            self._on_control_tick()
            self._timers.add(Stage.COMMAND, time.perf_counter() - started_s)

    def _on_control_tick(self) -> None:
        is_wanted = self._controller.is_wanted
        if is_wanted != self._was_wanted:
            self._loop.enable(is_wanted)
            self._was_wanted = is_wanted
        self._notice_loss()
        now_ns = self._now_ns()
        lack = self._observer.fault(now_ns) if is_wanted else ""
        output_fault = self._outputs.fault(now_ns) if is_wanted else ""
        pose = partial(self._observer.pose, self._controller.measured_names)
        command = self._controller.tick(now_ns, lack, pose, output_fault)
        self._outputs.send(command, now_ns)
        self._tell_change()

    def _notice_loss(self) -> None:
        """Drop the plan of a server that has gone, without waiting for the next query."""
        losses = 0 if self._client is None else self._client.count_losses()
        if losses != self._losses:
            self._losses = losses
            self._controller.fail(f"server {self._settings.server}: has gone; connecting anew")

    def _tell_change(self) -> None:
        report = self._controller.report()
        # numbers in a reason change at every tick
        change = report.state.value + "".join(c for c in report.reason if not c.isdigit())
        if change == self._told:
            return
        self._told = change
        log = self._node.get_logger()
        text = f"{report.state.value}{': ' if report.reason else ''}{report.reason}"
        if report.state in (ControlState.HOLDING, ControlState.STOPPED):
            log.warning(text)
        else:
            log.info(text)
        self._publish_status()

    def _publish_status(self) -> None:
        streams = stream_statuses(self._observer.reports(), self._ingest.topic_name)
        self._status_publisher.publish(
            policy_status(
                self._node.get_clock().now(),
                self._embodiment.name,
                self._controller.report(),
                dict(self._observer.gates),
                self._summarizer.newest,
                streams,
            )
        )

    def _on_status_tick(self) -> None:
        self._publish_status()
        name = self._node.get_fully_qualified_name()
        statuses = [
            *policy_diagnostics(name, self._controller.report(), dict(self._observer.gates), self._summarizer.newest),
            *stream_diagnostics(name, self._observer.reports()),
        ]
        self._diagnostics_publisher.publish(diagnostic_array(self._node.get_clock().now(), statuses))

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds


def described_limits(node: LifecycleNode, settings: PolicyParameters) -> Mapping[str, JointLimit]:
    """Return the limits of the robot's URDF by joint, in its units; none where no URDF is named.

    Raises:
        ConfigError: neither limits nor URDF, both sources of a URDF, or it cannot be had or read.
    """
    if settings.urdf_file and settings.urdf_topic:
        raise ConfigError("parameters 'urdf_file' and 'urdf_topic': both are set; set one of them")
    if settings.urdf_file:
        return limits_from_urdf(read_description(settings.urdf_file))
    if settings.urdf_topic:
        return limits_from_urdf(receive_description(node, settings.urdf_topic))
    if not settings.limits_file:
        raise ConfigError("parameters 'limits_file', 'urdf_file' and 'urdf_topic' are empty; set one in the parameters")
    return {}


def load_policy(settings: PolicyParameters, embodiment: Embodiment) -> Infers:
    """Return the policy, in this process or behind a server.

    Raises:
        Gr00tError: see `load_local` and `connect_remote`.
    """
    if not settings.server:
        return load_local(
            LocalPolicy(
                checkpoint=settings.checkpoint_path,
                device=settings.device,
                num_threads=settings.num_threads,
                denoising_steps=settings.denoising_steps,
                seed=settings.seed,
                instruction=settings.instruction,
            ),
            embodiment,
        )
    return connect_remote(
        RemotePolicy(
            address=settings.server,
            wire=settings.server_wire,
            token_file=settings.server_token_file,
            timeout_s=settings.server_timeout_s,
            images=settings.server_images,
        ),
        embodiment,
    )
