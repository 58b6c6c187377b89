# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Replay an episode of a dataset on the robot, or move it to a pose, through the limits of the policy node.

The robot first moves slowly to the first row, at the end to the pose. Ctrl-C brings it to rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from gr00t_msgs.action import MoveTo, ReplayMotion
from gr00t_msgs.msg import ErrorCode, PolicyStatus, StreamStatus
from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.utilities import try_shutdown

from gr00t_policy_node.replaying import ReplayRows, replay_rows
from gr00t_policy_node.ros.messages import duration
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import Gr00tError

WAIT_S = 20.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ANSWER_TIMEOUT_S = 20.0
CANCEL_TIMEOUT_S = 2.0
RETRY_S = 0.5  # while the policy node becomes active
MAX_WAIT_S = 3600.0


class ReplayError(Gr00tError):
    """The robot could not follow."""


class ReplayClient(Node):
    """Sends the goals and waits for their ends."""

    def __init__(self, policy: str, wait_s: float) -> None:
        """Connect to the actions of a policy node.

        Args:
            policy: its name.
            wait_s: in which it must be ready for the first goal.
        """
        super().__init__("replay")
        self._policy, self._ready_s = policy, time.monotonic() + wait_s
        self._wait_s = wait_s
        self._status: PolicyStatus | None = None
        self.create_subscription(PolicyStatus, f"{policy}/status", self._on_status, LATCHED)
        self._courses = {
            MoveTo: ActionClient(self, MoveTo, f"{policy}/move_to"),
            ReplayMotion: ActionClient(self, ReplayMotion, f"{policy}/replay"),
        }
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def wait_for_policy(self) -> None:
        """Wait until the policy node is there and sees the robot.

        Raises:
            ReplayError: it is not, or does not.
        """

        def is_there() -> bool:
            return self._status is not None and all(client.server_is_ready() for client in self._courses.values())

        remedy = "start and configure it, or give --policy"
        self._spin(is_there, self._left_s(), f"no policy node '{self._policy}' within {self._wait_s:g} s; {remedy}")
        self._spin(lambda: not self._unseen(), self._left_s(), "")
        if self._unseen():
            raise ReplayError(f"'{self._policy}' does not see the robot: {self._unseen()}")

    def run(self, kind: Any, goal: Any) -> Any:
        """Send a goal, wait for its end and return its result; a node that starts up is waited for.

        Raises:
            ReplayError: refused, or not reached; with the reason of the policy node.
        """
        while (result := self._run(kind, goal)).error_code == ErrorCode.NOT_ACTIVE and self._left_s() > 0.0:
            self._executor.spin_once(timeout_sec=RETRY_S)
        if result.error_code:
            raise ReplayError(f"'{self._policy}': {result.error_msg or 'ended'}")
        return result

    def _run(self, kind: Any, goal: Any) -> Any:
        sent = self._courses[kind].send_goal_async(goal)
        self._wait(sent, ANSWER_TIMEOUT_S)
        handle: ClientGoalHandle | None = sent.result()
        if handle is None or not handle.accepted:
            raise ReplayError(f"'{self._policy}' did not take the goal; see its log")
        ended = handle.get_result_async()
        try:
            self._wait(ended, None)
        except BaseException:
            self._wait(handle.cancel_goal_async(), CANCEL_TIMEOUT_S)
            raise
        response: Any = ended.result()
        return response.result

    def close(self) -> None:
        """Destroy the interfaces."""
        for client in self._courses.values():
            client.destroy()
        self._executor.shutdown()
        self.destroy_node()

    def _wait(self, future: Future, timeout_s: float | None) -> None:
        self._spin(future.done, timeout_s, f"'{self._policy}' does not answer; see its log")

    def _left_s(self) -> float:
        return max(0.0, self._ready_s - time.monotonic())

    def _unseen(self) -> str:
        """Return which inputs are missing or unusable, empty if none is; a pose far from training is none of them."""
        streams = [] if self._status is None else self._status.streams
        return "; ".join(f"{each.name}: {each.reason}" for each in streams if each.state != StreamStatus.OK)

    def _on_status(self, message: PolicyStatus) -> None:
        self._status = message

    def _spin(self, condition: Callable[[], bool], timeout_s: float | None, failure: str) -> None:
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not condition():
            if end_s is not None and time.monotonic() > end_s:
                if not failure:
                    return
                raise ReplayError(failure)
            self._executor.spin_once(timeout_sec=0.1)


def main(args: list[str] | None = None) -> int:
    """Run the command."""
    parser = CommandParser("gr00t_replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="Folder of the dataset.")
    parser.add_argument("episode", metavar="EPISODE", nargs="?", type=int, help="Index of the episode.")
    parser.add_argument("--first-row-only", action="store_true", help="Only move to the first row of the episode.")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="Share of the recorded speed, up to 1 (default: 1)."
    )
    text = "Pose of the limits file to move to at the end, such as home; without an episode only that."
    parser.add_argument("--pose", default="", metavar="NAME", help=text)
    parser.add_argument("--policy", default="policy", metavar="NAME", help="Name of the policy node (default: policy).")
    text = f"Time in which the policy node must be active and see the robot [s] (default: {WAIT_S:g})."
    parser.add_argument("--wait-ready", type=float, default=WAIT_S, metavar="X", help=text)
    return run_command(
        "gr00t_replay",
        lambda: _replay(*parse_with_ros_args(parser, args)),
        interrupted="interrupted; the robot was brought to rest",
    )


def _replay(options: argparse.Namespace, ros: list[str]) -> None:
    _check(options)
    episode = None if options.dataset is None else replay_rows(EpisodeDataset(options.dataset), options.episode)
    # keep the signal handlers of the command: they let the robot be brought to rest
    rclpy.init(args=ros, signal_handler_options=SignalHandlerOptions.NO)
    client = ReplayClient(options.policy, options.wait_ready)
    try:
        client.wait_for_policy()
        if episode is not None:
            _follow(client, episode, options)
        if options.pose:
            done = client.run(MoveTo, MoveTo.Goal(pose=options.pose))
            print(f"moved to pose '{options.pose}' in {done.duration:.1f} s", flush=True)
    finally:
        client.close()
        try_shutdown()


def _check(options: argparse.Namespace) -> None:
    if not 0.0 < options.speed <= 1.0:
        raise ReplayError(f"--speed is {options.speed:g}, expected more than 0 and at most 1")
    if not 0.0 <= options.wait_ready <= MAX_WAIT_S:
        raise ReplayError(f"--wait-ready is {options.wait_ready:g}, expected 0 to {MAX_WAIT_S:g} s")
    if options.dataset is not None and options.episode is None:
        raise ReplayError("EPISODE is missing; give the index of one after the dataset")
    if options.dataset is None and (options.first_row_only or not options.pose):
        raise ReplayError("DATASET and EPISODE are missing; give them, or a --pose to move to")


def _follow(client: ReplayClient, episode: ReplayRows, options: argparse.Namespace) -> None:
    pose, units = episode.first_pose(), list(episode.units)
    goal = MoveTo.Goal(names=list(pose), positions=list(pose.values()), units=[units[i] for i in episode.positions])
    done = client.run(MoveTo, goal)
    print(f"moved to the first row of episode {options.episode} in {done.duration:.1f} s", flush=True)
    if options.first_row_only:
        return
    goal = ReplayMotion.Goal(
        names=list(episode.names), units=units, step=duration(episode.step_ns), speed=options.speed
    )
    goal.data = episode.rows.ravel().tolist()
    done = client.run(ReplayMotion, goal)
    limited = f"limits changed {done.limited_commands} commands"
    print(f"replayed {len(episode.rows)} rows in {done.duration:.1f} s; {limited}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
