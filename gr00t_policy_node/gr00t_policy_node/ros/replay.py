# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Replay an episode of a dataset on the robot, through the limits of the policy node.

The robot first moves slowly to the first row. Ctrl-C brings it to rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from gr00t_msgs.action import MoveTo, ReplayMotion
from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
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

CONNECT_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 20.0
CANCEL_TIMEOUT_S = 2.0


class ReplayError(Gr00tError):
    """The robot could not follow."""


class ReplayClient(Node):
    """Sends the two goals and waits for their end."""

    def __init__(self, policy: str) -> None:
        """Connect to the actions of a policy node."""
        super().__init__("replay")
        self._policy = policy
        self._courses = {
            MoveTo: ActionClient(self, MoveTo, f"{policy}/move_to"),
            ReplayMotion: ActionClient(self, ReplayMotion, f"{policy}/replay"),
        }
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def wait_for_policy(self) -> None:
        """Wait until the policy node is there.

        Raises:
            ReplayError: it is not.
        """
        self._spin(
            lambda: all(client.server_is_ready() for client in self._courses.values()),
            CONNECT_TIMEOUT_S,
            f"no policy node '{self._policy}' within {CONNECT_TIMEOUT_S:g} s; start and activate it, or give --policy",
        )

    def run(self, kind: Any, goal: Any) -> Any:
        """Send a goal, wait for its end and return its result.

        Raises:
            ReplayError: refused, or not reached; with the reason of the policy node.
        """
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
        if response.result.error_code:
            raise ReplayError(f"'{self._policy}': {response.result.error_msg or 'ended'}")
        return response.result

    def close(self) -> None:
        """Destroy the interfaces."""
        for client in self._courses.values():
            client.destroy()
        self._executor.shutdown()
        self.destroy_node()

    def _wait(self, future: Future, timeout_s: float | None) -> None:
        self._spin(future.done, timeout_s, f"'{self._policy}' does not answer; see its log")

    def _spin(self, condition: Callable[[], bool], timeout_s: float | None, failure: str) -> None:
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not condition():
            if end_s is not None and time.monotonic() > end_s:
                raise ReplayError(failure)
            self._executor.spin_once(timeout_sec=0.1)


def main(args: list[str] | None = None) -> int:
    """Run the command."""
    parser = CommandParser("gr00t_replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", metavar="DATASET", help="Folder of the dataset.")
    parser.add_argument("episode", metavar="EPISODE", type=int, help="Index of the episode.")
    parser.add_argument("--first-row-only", action="store_true", help="Only move to the first row of the episode.")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="Share of the recorded speed, up to 1 (default: 1)."
    )
    parser.add_argument("--policy", default="policy", metavar="NAME", help="Name of the policy node (default: policy).")
    return run_command(
        "gr00t_replay",
        lambda: _replay(*parse_with_ros_args(parser, args)),
        interrupted="interrupted; the robot was brought to rest",
    )


def _replay(options: argparse.Namespace, ros: list[str]) -> None:
    if not 0.0 < options.speed <= 1.0:
        raise ReplayError(f"--speed is {options.speed:g}, expected more than 0 and at most 1")
    episode = replay_rows(EpisodeDataset(options.dataset), options.episode)
    # keep the signal handlers of the command: they let the robot be brought to rest
    rclpy.init(args=ros, signal_handler_options=SignalHandlerOptions.NO)
    client = ReplayClient(options.policy)
    try:
        client.wait_for_policy()
        _follow(client, episode, options)
    finally:
        client.close()
        try_shutdown()


def _follow(client: ReplayClient, episode: ReplayRows, options: argparse.Namespace) -> None:
    pose = episode.first_pose()
    done = client.run(MoveTo, MoveTo.Goal(names=list(pose), positions=list(pose.values())))
    print(f"moved to the first row of episode {options.episode} in {done.duration:.1f} s", flush=True)
    if options.first_row_only:
        return
    goal = ReplayMotion.Goal(names=list(episode.names), step=duration(episode.step_ns), speed=options.speed)
    goal.data = episode.rows.ravel().tolist()
    done = client.run(ReplayMotion, goal)
    limited = f"limits changed {done.limited_commands} commands"
    print(f"replayed {len(episode.rows)} rows in {done.duration:.1f} s; {limited}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
