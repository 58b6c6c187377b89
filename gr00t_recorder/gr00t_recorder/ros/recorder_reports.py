# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What recorder_node does when something happens to an episode: markers, log lines, and the bag of the episode."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import String

from gr00t_recorder.bag.recording import BAGS_FOLDER
from gr00t_recorder.episodes.events import EpisodeEvent, event_text
from gr00t_recorder.episodes.requests import RunningEpisode
from gr00t_recorder.episodes.run import EpisodeResult
from gr00t_recorder.ros.bag_topics import TopicBags
from gr00t_recorder.ros.status import MAX_REASON
from gr00t_training.io.text import printable


class EpisodeReports:
    """Listens to the recorder (`gr00t_recorder.episodes.view.RecorderListener`), in its thread."""

    def __init__(self, node: Node, publisher: Publisher, dataset_path: Path, bags: TopicBags | None) -> None:
        """Publish markers with `publisher`, and write into `bags` where there are any."""
        self._node = node
        self._publisher = publisher
        self._dataset_path = dataset_path
        self._bags = bags
        self._episode_bags = bags if bags is not None and bags.is_per_episode else None

    def on_event(self, event: EpisodeEvent, time_ns: int) -> None:
        """Publish a marker and write it into the bag."""
        event = dataclasses.replace(event, recorder=self._node.get_fully_qualified_name())
        self._publisher.publish(String(data=event_text(event)))
        if self._bags is not None:
            self._bags.mark(event, time_ns)

    def on_start(self, episode: RunningEpisode) -> None:
        """Begin the bag of an episode."""
        self._node.get_logger().info(f"recording episode {episode.index}: {printable(episode.task)}")
        if self._episode_bags is not None:
            self._episode_bags.begin(self._dataset_path / BAGS_FOLDER, f"episode_{episode.index:06d}")

    def on_end(self, result: EpisodeResult) -> None:
        """Log how an episode ended and complete its bag; one that failed keeps it: it may still be made from it."""
        logger, reason = self._node.get_logger(), printable(result.reason, MAX_REASON)
        if result.is_saved:
            ending = f"; it ended early: {reason}" if reason else ""
            if result.is_unrequested:
                ending += "; discard it with ~/stop_episode {keep: false}, or key d of gr00t_record"
            logger.info(f"saved episode {result.index}: {result.num_frames} rows{ending}")
        elif result.is_discarded:
            logger.info("discarded the episode")
        else:
            logger.error(f"episode not saved: {reason}")
        if self._episode_bags is not None:
            custom = {"episode_index": str(result.index), "is_saved": str(result.is_saved).lower(), "task": result.task}
            self._episode_bags.recording.end(is_kept=not result.is_discarded, custom=custom)

    def on_taken_back(self, folder: Path) -> None:
        """Move the bag of an episode that was taken out of the dataset to its other files."""
        if self._episode_bags is not None:
            self._episode_bags.recording.set_aside(folder)

    def on_decision(self, result: EpisodeResult) -> None:
        """Log what became of an episode that had ended by itself."""
        what = "kept" if result.is_saved else "discarded"
        self._node.get_logger().info(f"{what} episode {result.index}, which had ended by itself")

    def on_warning(self, text: str) -> None:
        """Log what has begun to go wrong."""
        self._node.get_logger().warning(printable(text, MAX_REASON))
