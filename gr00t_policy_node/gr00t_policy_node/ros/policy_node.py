# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Drive a robot with a GR00T policy: the lifecycle around `PolicyRuntime`.

It takes its inputs through the recorder's topic map and ingest, so the policy sees what was recorded.
"""

from __future__ import annotations

import gc
import sys

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from gr00t_policy_node.ros.build import build_runtime
from gr00t_policy_node.ros.parameters import PolicyParameters
from gr00t_policy_node.ros.runtime import PolicyRuntime
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare, guard_changes, read
from gr00t_recorder.ros.spin import run_node
from gr00t_training.errors import ConfigError, Gr00tError

COMMAND = NodeCommand(
    name="policy_node",
    node_name="policy",
    purpose="Drive a robot with a GR00T policy: cameras and joint states in, chunks and commands out (lifecycle node).",
    settings=PolicyParameters,
)
SWITCH_INTERVAL_S = 0.0005  # a thread that computes in Python must not delay a control tick by the default 5 ms


class PolicyNode(LifecycleNode):
    """Cameras and joint states in, `~/action_chunk` and commands out."""

    def __init__(self) -> None:
        """Declare the parameters; with `autostart` also configure and activate.

        Raises:
            ConfigError: a parameter is wrong, or the node could not be configured at its autostart.
        """
        super().__init__("policy")
        self._runtime: PolicyRuntime | None = None
        self._is_autostarting = False
        self._refusal = ""  # of the newest configure
        settings = declare(self, PolicyParameters)
        guard_changes(self, PolicyParameters, lambda: self._runtime is not None, live=["instruction", "seed"])
        if settings.autostart:
            if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
                raise ConfigError(f"not configured: {self._refusal}")
            self._is_autostarting = True
            self.trigger_activate()
            self._is_autostarting = False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and validate everything; subscribe."""
        try:
            self._runtime = build_runtime(self, read(self, PolicyParameters))
        except Gr00tError as error:
            self._refusal = str(error)
            self.get_logger().error(f"not configured: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would swallow it
            self._refusal = repr(error)
            self.get_logger().fatal(f"not configured: {error!r}")
            return TransitionCallbackReturn.ERROR
        # the collector does not go through the model again: that would delay a control tick
        gc.collect()
        gc.freeze()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to infer and command; refused when inputs arrive that cannot be used.

        Such as wrong joint names, or a state far outside what the policy was trained on. Inputs that have not come yet
        are checked when they do, and then hold the robot. So are all inputs at an autostart, since nothing would try
        again.
        """
        assert self._runtime is not None
        invalid = "; ".join(self._runtime.invalid_inputs())
        if invalid and not self._is_autostarting:
            self.get_logger().error(f"not activated: {invalid}")
            return TransitionCallbackReturn.FAILURE
        if invalid:
            self.get_logger().warning(f"inputs cannot be used: {invalid}; holding until they can")
        result = super().on_activate(state)
        self._runtime.activate(read(self, PolicyParameters).instruction)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make the robot safe, then stop publishing."""
        if self._runtime is not None:
            self._runtime.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the subscriptions."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Make the robot safe and free everything; tolerates a node that is not configured."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.deactivate()
            runtime.close()
            del runtime
        # its threads and callbacks refer to it in a cycle, and the model is large: not left to chance
        gc.unfreeze()
        gc.collect()


def main(args: list[str] | None = None) -> int:
    """Run the node until a signal."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return run_node(PolicyNode, args, COMMAND)
