# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Lifecycle node that records topics into a dataset, episode by episode.

Callbacks convert and delegate, and none of them waits. The executor's thread takes requests through one adapter per
door: `recorder_services`, `recorder_action`, `recorder_markers`, `recorder_joystick`. The ingest's threads take
messages. What is decided and written is the business of `gr00t_recorder.episodes.recorder` and its two threads.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from gr00t_recorder.bag.recording import BAGS_FOLDER
from gr00t_recorder.episodes.requests import Resume
from gr00t_recorder.ros.clock_watch import ClockWatch, create_steady_timer
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare, guard_changes
from gr00t_recorder.ros.recorder_action import RecorderAction
from gr00t_recorder.ros.recorder_joystick import RecorderJoystick
from gr00t_recorder.ros.recorder_markers import RecorderMarkers
from gr00t_recorder.ros.recorder_requests import RecorderRequests
from gr00t_recorder.ros.recorder_services import RecorderServices
from gr00t_recorder.ros.recorder_session import open_session
from gr00t_recorder.ros.recorder_settings import RecorderSettings
from gr00t_recorder.ros.recorder_status import StatusPublisher
from gr00t_recorder.ros.spin import run_node
from gr00t_training.errors import ConfigError, Gr00tError

PERIOD_S = 0.05
CLOCK_PERIODS = 4  # 5 Hz


class RecorderNode(LifecycleNode):
    """See the module."""

    def __init__(self, **options: Any) -> None:
        """Declare parameters and offer the services; they answer NOT_ACTIVE until the node is active."""
        super().__init__("recorder", **options)
        settings = declare(self, RecorderSettings)
        self._requests = RecorderRequests(self)
        guard_changes(self, RecorderSettings, lambda: self._requests.session is not None)
        self._clock_watch = ClockWatch(self)
        self._clock_fault = ""
        self._num_periods = 0
        # re-entrant: a service that awaits the end of an episode must not keep the others waiting
        group = ReentrantCallbackGroup()
        self._service_door = RecorderServices(self, self._requests, group)
        self._action_door = RecorderAction(self, self._requests, group)
        self._markers = RecorderMarkers(self, self._requests)
        self._joystick = RecorderJoystick(self, self._requests)
        self._events = self.create_lifecycle_publisher(String, "~/events", 10)
        self._status = StatusPublisher(self)
        # the status is also published while a simulator is paused
        create_steady_timer(self, PERIOD_S, self._on_timer)
        if settings.autostart:
            if self.trigger_configure() is not TransitionCallbackReturn.SUCCESS:
                raise ConfigError(f"{self.get_name()}: could not be configured; see the log above")
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the topic map, open the dataset and subscribe."""
        try:
            settings = declare(self, RecorderSettings)
            session = open_session(self, settings, self._events, lambda: self._clock_fault)
            self._requests.session = session
            session.subscribe(self, self._markers.on_message, self._on_wake)
            self._joystick.subscribe(settings)
        except Gr00tError as error:
            self.get_logger().error(f"not configured: {error}")
            self._teardown()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to publish and to accept episodes."""
        session = self._requests.session
        fault = session.fault() if session is not None else ""
        if fault:
            self.get_logger().error(f"not activated: {fault}")
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        if session is not None:
            session.recorder.ask(Resume())
            self._requests.is_active = True
            if session.bags is not None and not session.bags.is_per_episode:
                session.bags.begin(session.dataset.path / BAGS_FOLDER, "session")
            self._status.activate(session)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save a running episode, then stop publishing."""
        self._finish("the recorder was deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and close the dataset."""
        self._teardown("the recorder was cleaned up")
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save a running episode and release everything."""
        self._teardown("the recorder was shut down")
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save a running episode and release everything."""
        self.get_logger().error("a transition failed; releasing everything")
        self._teardown("a lifecycle transition of the recorder failed")
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Save a running episode before the process ends."""
        self._teardown("the recorder's process was ended")

    def _finish(self, reason: str) -> None:
        """Save a running episode; `reason` goes into its report."""
        self._requests.is_active = False
        session = self._requests.session
        if session is not None:
            # the ingest keeps running: samples of the last rows are still arriving
            session.recorder.finish(reason, wait_s=session.settings.max_lag_s)
            self._status.publish(session)
            if session.bags is not None:
                session.bags.recording.end(is_kept=True)

    def _teardown(self, reason: str = "") -> None:
        """Release what there is; tolerates a half-built session."""
        if reason:
            self._finish(reason)
        session, self._requests.session = self._requests.session, None
        self._joystick.unsubscribe()
        if session is not None:
            session.close()

    def _on_wake(self) -> None:
        """Have the rows taken that are certain; runs in the ingest thread."""
        session = self._requests.session
        if session is not None:
            session.recorder.advance(self._requests.now_ns())

    def _on_timer(self) -> None:
        session = self._requests.session
        if session is None or session.ingest is None:
            return
        self._num_periods += 1
        if self._num_periods % CLOCK_PERIODS == 0:
            self._clock_fault = self._clock_watch.fault()
        session.ingest.wake()
        self._action_door.watch(session)
        if self._requests.is_active:
            self._status.on_period(session, self._clock_fault)


COMMAND = NodeCommand(
    "recorder_node", "recorder", "Record topics into a LeRobot dataset, episode by episode.", RecorderSettings
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until a signal ends it."""
    return run_node(RecorderNode, args, COMMAND)


if __name__ == "__main__":
    sys.exit(main())
