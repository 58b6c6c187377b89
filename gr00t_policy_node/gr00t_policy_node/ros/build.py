# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Load and check what a policy node needs, and connect it to a runtime."""

from __future__ import annotations

import logging

from rclpy.lifecycle import LifecycleNode

from gr00t_policy_node.chunking.player import Execution
from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.person import TakeoverRules, TeleopMode
from gr00t_policy_node.control.state import StopRules
from gr00t_policy_node.inference.policies import LocalPolicy, NoPolicy, RemotePolicy, connect_remote, load_local
from gr00t_policy_node.observing import input_map, skew_warning
from gr00t_policy_node.ros.parameters import PolicyParameters
from gr00t_policy_node.ros.robot_description import receive_description
from gr00t_policy_node.ros.runtime import PolicyRuntime, RuntimeParts
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_policy_node.urdf import UrdfLimits, channel_limits, read_description, read_urdf
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.settings import load_settings

logger = logging.getLogger(__name__)


def build_runtime(node: LifecycleNode, settings: PolicyParameters) -> PolicyRuntime:
    """Load and validate everything, then subscribe.

    Raises:
        Gr00tError: a file is missing or wrong, or checkpoint, topic map and limits do not fit together.
    """
    if not settings.topics_file:
        raise ConfigError("parameter 'topics_file' is empty; set it in the parameters file")
    if settings.checkpoint_path and settings.server:
        raise ConfigError("parameters 'checkpoint_path' and 'server': both are set; set one of them")
    if not (settings.checkpoint_path or settings.server or settings.teleop is TeleopMode.ALWAYS):
        raise ConfigError(
            "parameters 'checkpoint_path' and 'server': neither is set; set one of them, or 'teleop' to always for a "
            "robot without a policy"
        )
    topic_map, embodiment = load_topic_map(settings.topics_file)
    inputs = input_map(topic_map)
    controller = build_controller(node, settings, embodiment)
    for warning in (skew_warning(inputs), *controller.warnings):
        if warning:
            node.get_logger().warning(warning)
    policy = load_policy(settings, embodiment)
    return PolicyRuntime(node, RuntimeParts(settings, topic_map, inputs, embodiment, controller, policy))


def build_controller(node: LifecycleNode, settings: PolicyParameters, embodiment: Embodiment) -> Controller:
    """Return the controller with the limits of file and URDF.

    Raises:
        ConfigError: limits are missing, cannot be read, or do not fit the embodiment.
    """
    limits = load_settings(LimitsFile, settings.limits_file) if settings.limits_file else LimitsFile()
    urdf = described_limits(node, settings)
    described = channel_limits(urdf.limits, embodiment)
    wider = limits.wider_than(described)
    if wider:
        node.get_logger().warning(f"limits_file {settings.limits_file} exceeds the URDF: {', '.join(wider.values())}")
    if urdf.warning:
        node.get_logger().warning(urdf.warning)
    all_limits = limits.limits(described)
    urdf.refuse_unusable([name for key in embodiment.action_keys for name in embodiment.action[key].names], all_limits)
    return Controller(
        embodiment,
        all_limits,
        1.0 / settings.control_rate_hz,
        execution=Execution(mode=settings.execution, curve=settings.curve, rtc_ramp_rate=settings.rtc_ramp_rate),
        stops=StopRules(
            max_input_gap_s=settings.max_input_gap_s,
            max_silence_s=settings.max_silence_s,
            max_violations=settings.max_violations,
            safe_pose=limits.safe_pose,
        ),
        takeover=TakeoverRules(
            mode=settings.teleop,
            engage=settings.teleop_engage,
            link_timeout_s=settings.teleop_timeout_s,
            align_s=settings.teleop_align_s,
            approach_speed=settings.teleop_approach_speed,
        ),
        poses=limits.poses,
    )


def described_limits(node: LifecycleNode, settings: PolicyParameters) -> UrdfLimits:
    """Return the limits of the robot's URDF; none where no URDF is named.

    Raises:
        ConfigError: neither limits nor URDF, both sources of a URDF, or it is unavailable or unreadable.
    """
    if settings.urdf_file and settings.urdf_topic:
        raise ConfigError("parameters 'urdf_file' and 'urdf_topic': both are set; set one of them")
    if settings.urdf_file:
        return read_urdf(read_description(settings.urdf_file))
    if settings.urdf_topic:
        return read_urdf(receive_description(node, settings.urdf_topic))
    if not settings.limits_file:
        raise ConfigError("parameters 'limits_file', 'urdf_file' and 'urdf_topic' are empty; set one in the parameters")
    return UrdfLimits()


def load_policy(settings: PolicyParameters, embodiment: Embodiment) -> PolicyLike:
    """Return the policy, in this process or behind a server; one that answers nothing where none is named.

    Raises:
        Gr00tError: see `load_local` and `connect_remote`.
    """
    if not settings.server and not settings.checkpoint_path:
        logger.warning("no policy: only persons, moves and replays command the robot")
        return NoPolicy(embodiment)
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
            checkpoint=settings.server_checkpoint,
        ),
        embodiment,
    )
