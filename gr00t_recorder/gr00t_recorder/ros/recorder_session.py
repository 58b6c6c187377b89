# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What recorder_node holds between configure and cleanup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node
from rclpy.publisher import Publisher

from gr00t_recorder.episodes.capture import RecorderOptions
from gr00t_recorder.episodes.conditions import Conditions
from gr00t_recorder.episodes.disk import DiskBudget
from gr00t_recorder.episodes.recorder import EpisodeRecorder
from gr00t_recorder.ros.bag_topics import BagScope, TopicBags
from gr00t_recorder.ros.ingest import TopicIngest
from gr00t_recorder.ros.recorder_reports import EpisodeReports
from gr00t_recorder.ros.recorder_settings import BagPer, RecorderSettings
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_recorder.topics.frames import DEFAULT_HORIZON_S, FrameAssembler
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoSettings
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.text import TextError, check_instruction


@dataclass
class RecorderSession:
    """A dataset open for recording, and everything that feeds it."""

    settings: RecorderSettings
    assembler: FrameAssembler
    dataset: DatasetWriter
    disk: DiskBudget
    recorder: EpisodeRecorder
    bags: TopicBags | None = None
    ingest: TopicIngest | None = None

    @property
    def bag_bytes_per_s(self) -> float:
        """What the bag stores in addition to the dataset."""
        return self.bags.recording.bytes_per_s() if self.bags else 0.0

    def fault(self) -> str:
        """Return why nothing can be recorded whatever the streams do; empty if it can."""
        return _fault(self.dataset)

    def subscribe(
        self, node: Node, on_message: Callable[[str, object, int], None], on_wake: Callable[[], None]
    ) -> None:
        """Begin to take messages; `on_message` follows them, and `on_wake` each wake, in the ingest's thread.

        Raises:
            ConfigError: a message type is not installed.
        """
        topic_map, bags = self.assembler.topic_map, self.bags
        names = {name: node.resolve_topic_name(config.topic) for name, config in topic_map.streams.items()}
        self.ingest = TopicIngest(
            node,
            topic_map.streams,
            self.assembler,
            on_message=on_message,
            on_raw=(lambda stream, *received: bags.put(names[stream], *received)) if bags else None,
            on_wake=on_wake,
        )

    def close(self) -> None:
        """Save a running episode and release everything; tolerates a half-built session."""
        if self.ingest is not None:
            self.ingest.close()
        self.recorder.close()
        if self.bags is not None:
            self.bags.close()
        self.dataset.close()


def open_session(
    node: Node, settings: RecorderSettings, events: Publisher, clock_fault: Callable[[], str]
) -> RecorderSession:
    """Load the topic map and open the dataset; nothing is subscribed yet.

    Args:
        node: the recorder.
        settings: its parameters.
        events: takes the markers of what happens to episodes.
        clock_fault: why no time passes; empty if it does.

    Raises:
        ConfigError, DatasetError: a parameter, the topic map or the dataset is not valid.
    """
    for name in ("topics_file", "dataset_path"):
        if not getattr(settings, name):
            raise ConfigError(f"parameter '{name}' is empty; set it in the parameters file")
    if settings.task.strip():
        try:
            check_instruction(settings.task, "parameter 'task'")
        except TextError as error:
            raise ConfigError(str(error)) from error
    topic_map, embodiment = load_topic_map(settings.topics_file)
    if not topic_map.action:
        raise ConfigError(f"{settings.topics_file}: no action is bound; a recording without actions teaches nothing")
    horizon_s = DEFAULT_HORIZON_S + settings.max_lag_s
    assembler = FrameAssembler(topic_map, embodiment, horizon_s=horizon_s, holds_stale=not settings.end_on_stale)
    video = VideoSettings(
        codec=settings.video_codec,
        crf=settings.video_crf,
        preset=settings.video_preset,
        encoder=settings.video_encoder,
    )
    path = Path(settings.dataset_path).expanduser()
    dataset = DatasetWriter(
        path,
        embodiment,
        video=video,
        version=settings.dataset_version or None,
        has_source=topic_map.command_source is not None,
    )
    disk = DiskBudget(dataset.path, embodiment, reserve_bytes=round(settings.min_free_disk_gb * 1e9))
    disk.measure(dataset.num_frames)
    bags = _make_bags(node, settings, assembler) if settings.bag is not BagScope.OFF else None
    conditions = Conditions(
        assembler,
        disk,
        min_episode_s=settings.min_episode_s,
        extra_bytes_per_s=bags.recording.bytes_per_s if bags else lambda: 0.0,
        clock_fault=clock_fault,
        dataset_fault=lambda: _fault(dataset),
    )
    options = RecorderOptions(
        spill_folder=dataset.path / schema.STAGING,
        task=settings.task,
        source=node.get_fully_qualified_name(),
        max_lag_s=settings.max_lag_s,
        max_queued_bytes=settings.max_queued_mb * 10**6,
        is_held=not settings.end_on_stale,
        keeps_failed=bags is not None and bags.is_per_episode,
    )
    recorder = EpisodeRecorder(
        assembler,
        dataset,
        conditions,
        EpisodeReports(node, events, dataset.path, bags),
        options,
        clock_ns=lambda: node.get_clock().now().nanoseconds,
    )
    return RecorderSession(settings, assembler, dataset, disk, recorder, bags)


def _fault(dataset: DatasetWriter) -> str:
    try:
        dataset.check_present()
    except DatasetError as error:
        return str(error)
    return ""


def _make_bags(node: Node, settings: RecorderSettings, assembler: FrameAssembler) -> TopicBags:
    topic_map = assembler.topic_map
    topics = {node.resolve_topic_name(config.topic): config.type for config in topic_map.streams.values()}
    is_per_episode = settings.bag_per is BagPer.EPISODE
    return TopicBags(node, settings.bag, topics, node.resolve_topic_name("~/events"), is_per_episode=is_per_episode)
