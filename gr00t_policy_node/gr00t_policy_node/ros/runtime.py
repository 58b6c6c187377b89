# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Everything that a policy node has between configure and cleanup.

Three threads: the executor (control ticks, services), the ingest's worker (messages), the inference loop. A control
tick waits for neither of the others.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from gr00t_msgs.msg import ActionChunk as ActionChunkMsg
from gr00t_msgs.msg import PolicyStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher

from gr00t_policy_node.chunking import Execution
from gr00t_policy_node.controller import Controller, ControlState, StopRules
from gr00t_policy_node.inference import InferenceLoop, Infers, LatencyWindow
from gr00t_policy_node.limits import LimitsFile
from gr00t_policy_node.policies import LocalPolicy, RemotePolicy, connect_remote, load_local
from gr00t_policy_node.ros.diagnostics import policy_diagnostic, policy_status
from gr00t_policy_node.ros.messages import ChunkCodec, CommandCodec
from gr00t_policy_node.ros.parameters import PolicyParameters
from gr00t_policy_node.ros.task_server import LATCHED, TaskServer
from gr00t_recorder.ros.ingest import TopicIngest
from gr00t_recorder.ros.status import diagnostic_array, stream_diagnostics, stream_statuses
from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.streams import StreamState
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.observation import observation_from_frames
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
        for name in ("topics_file", "limits_file"):
            if not getattr(settings, name):
                raise ConfigError(f"parameter '{name}' is empty; set it in the parameters file")
        if bool(settings.checkpoint_path) == bool(settings.server):
            found = "both are" if settings.server else "neither is"
            raise ConfigError(f"parameters 'checkpoint_path' and 'server': {found} set; set one of them")
        self._node = node
        self._settings = settings
        topic_map, self._embodiment = load_topic_map(settings.topics_file)
        inputs = input_map(topic_map)
        self._assembler = FrameAssembler(inputs, self._embodiment, with_history=True)
        limits = load_settings(LimitsFile, settings.limits_file)
        self._controller = Controller(
            self._embodiment,
            limits.limits(),
            1.0 / settings.control_rate_hz,
            execution=Execution(mode=settings.execution, curve=settings.curve, rtc_ramp_rate=settings.rtc_ramp_rate),
            stops=StopRules(
                max_input_gap_s=settings.max_input_gap_s,
                max_silence_s=settings.max_silence_s,
                max_violations=settings.max_violations,
            ),
        )
        for warning in self._controller.warnings:
            node.get_logger().warning(warning)
        policy = load_policy(settings, self._embodiment)
        self._inference_latency, self._observation_latency = LatencyWindow(), LatencyWindow()
        self._sequence = 0
        self._is_active = self._was_wanted = False
        self._told = ""
        with ExitStack() as opened:  # closes what exists when the rest fails
            if isinstance(policy, PolicyClient):
                opened.callback(policy.close)
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
            self._ingest = TopicIngest(node, inputs.streams, self._assembler, on_message=lambda *_: self._loop.wake())
            opened.callback(self._ingest.close)
            self._create_interfaces(topic_map, opened)
            self._opened = opened.pop_all()

    def invalid_inputs(self) -> list[str]:
        """Return what is wrong with inputs that arrive but cannot be used; those that are missing may still come."""
        reports = self._assembler.reports(self._now_ns())
        return [f"{report.topic}: {report.reason}" for report in reports if report.state is StreamState.INVALID]

    def activate(self, instruction: str) -> None:
        """Begin to command as soon as there is a task."""
        self._is_active = self._tasks.is_active = True
        if instruction:
            self._tasks.start(instruction)

    def deactivate(self) -> None:
        """End the task with the robot at rest; publishers still work."""
        if not self._is_active:
            return
        self._tasks.is_active = False
        last = self._controller.last_command  # before the goal ends: its end forgets the command
        self._tasks.abandon("the node was deactivated")
        self._controller.finish("deactivated")
        for last in self._controller.braking():
            self._command(last)
            time.sleep(1.0 / self._settings.control_rate_hz)
        self._command(last)
        self._on_control_tick()  # tells the loop and the status
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
        self._commands: list[tuple[CommandCodec, Publisher]] = []
        for config in () if self._settings.dry_run else topic_map.commands:
            codec = CommandCodec(config, self._controller.keys, round(1e9 / rate_hz))
            # depth 1: a late command must not be followed by older ones
            self._commands.append((codec, publisher(codec.message_type, config.topic, 1)))
        # these two speak in every lifecycle state
        self._status_publisher = node.create_publisher(PolicyStatus, "~/status", LATCHED)
        opened.callback(node.destroy_publisher, self._status_publisher)
        self._diagnostics_publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 5)
        opened.callback(node.destroy_publisher, self._diagnostics_publisher)
        self._tasks = TaskServer(node, self._controller, self._inference_latency, self._publish_status)
        opened.callback(self._tasks.close)
        for period_s, callback in ((1.0 / rate_hz, self._on_control_tick), (STATUS_PERIOD_S, self._on_status_tick)):
            opened.callback(node.destroy_timer, node.create_timer(period_s, callback))

    # In the inference thread.

    def _observe(self) -> Observation:
        lack = self._lack(self._now_ns())
        if lack:
            raise ObservationError(lack)
        tick_ns = self._assembler.latest_tick()
        if tick_ns is None:
            raise ObservationError("waiting for the first sample of every camera and state key")
        frames = self._assembler.observed_frames(tick_ns)
        return observation_from_frames(frames, self._embodiment, self._controller.report().instruction)

    def _on_chunk(self, chunk: ActionChunk, observation: Observation, latency_s: float) -> None:
        if not self._controller.offer(chunk, observation.instruction, self._now_ns()):
            return
        age_s = (self._now_ns() - chunk.start_ns) / 1e9
        self._inference_latency.add(latency_s)
        self._observation_latency.add(age_s)
        self._sequence += 1
        message = self._chunk_codec.encode(chunk)
        message.sequence = self._sequence
        message.inference_latency, message.observation_latency = latency_s, age_s
        self._chunk_publisher.publish(message)

    def _continuation(self, observation: Observation) -> Continuation | None:
        """Return the chunk that the next one is to continue; None unless the execution asks for that."""
        (latency_s,) = self._observation_latency.quantiles(EXPECTED_LATENCY)
        return self._controller.continuation(observation.stamp_ns, latency_s)

    def _on_refusal(self, reason: str) -> None:
        self._controller.count_refused_observation()
        self._node.get_logger().warning(f"no inference: {reason}; holding", throttle_duration_sec=5.0)

    # In the executor's thread.

    def _on_control_tick(self) -> None:
        if not self._is_active:
            return
        is_wanted = self._controller.is_wanted
        if is_wanted != self._was_wanted:
            self._loop.enable(is_wanted)
            self._was_wanted = is_wanted
        now_ns = self._now_ns()
        lack = self._lack(now_ns) if is_wanted else ""
        command = self._controller.tick(now_ns, lack, self._measured_pose)
        self._command(command)
        self._tell_change()

    def _command(self, command: np.ndarray | None) -> None:
        if command is not None:
            for codec, publisher in self._commands:
                publisher.publish(codec.encode(command))

    def _measured_pose(self) -> np.ndarray:
        """Return the newest pose (N,) in the controller's order."""
        choices = self._assembler.pick(self._now_ns(), with_action=False).choices
        values: dict[str, float] = {}
        for key, vector in self._embodiment.state.items():
            if f"state.{key}" in choices:
                values.update(zip(vector.names, choices[f"state.{key}"].value.tolist(), strict=True))
        missing = [name for name in self._controller.names if name not in values]
        if missing:
            raise ObservationError(f"pose of joint '{missing[0]}' is not known; make its state key required")
        return np.array([values[name] for name in self._controller.names])

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
        streams = stream_statuses(self._assembler.reports(self._now_ns()), self._ingest.topic_name)
        self._status_publisher.publish(
            policy_status(
                self._node.get_clock().now(),
                self._embodiment.name,
                self._controller.report(),
                self._inference_latency,
                self._observation_latency,
                streams,
            )
        )

    def _on_status_tick(self) -> None:
        self._publish_status()
        name = self._node.get_fully_qualified_name()
        latencies = {"inference": self._inference_latency, "observation to chunk": self._observation_latency}
        statuses = [
            policy_diagnostic(name, self._controller.report(), latencies),
            *stream_diagnostics(name, self._assembler.reports(self._now_ns())),
        ]
        self._diagnostics_publisher.publish(diagnostic_array(self._node.get_clock().now(), statuses))

    def _lack(self, now_ns: int) -> str:
        """Return why the inputs cannot be used, empty when they can."""
        lacks = self._assembler.unready(now_ns)
        return lacks[0] if lacks else self._assembler.history_lack()

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds


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


def input_map(topic_map: TopicMap) -> TopicMap:
    """Return the part of a topic map that a policy needs: states, cameras and their streams."""
    used = {binding.stream for binding in (*topic_map.state.values(), *topic_map.video.values())}
    streams = {name: config for name, config in topic_map.streams.items() if name in used}
    return dataclasses.replace(topic_map, streams=streams, action={}, depth={}, task=None, events=None)
