# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of recorder_node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gr00t_recorder.episodes.buttons import Command
from gr00t_recorder.ros.bag_topics import BagScope
from gr00t_training.dataset.media.video import VideoCodec, VideoEncoder
from gr00t_training.settings import setting


class BagPer(str, Enum):
    """How long one bag is."""

    EPISODE = "episode"
    SESSION = "session"  # from activation to deactivation


@dataclass(frozen=True)
class RecorderSettings:
    """Parameters of the node."""

    topics_file: str = setting("", "Topic map, a YAML file; empty is refused at configure.")
    dataset_path: str = setting("", "Dataset folder, appended to when it exists; empty is refused at configure.")
    task: str = setting("", "Task text if neither the request nor the task topic gives one.")
    use_events: bool = setting(True, "Whether markers on the events topic start and stop episodes.")
    min_free_disk_gb: float = setting(2.0, "Free space on the disk that a recording leaves [GB].", ge=0.0, le=10000.0)
    min_episode_s: float = setting(
        60.0, "No episode starts that could not be recorded for this long above that reserve [s].", ge=0.0, le=36000.0
    )
    max_lag_s: float = setting(
        1.0, "Longest wait for a slow stream before its last sample is used [s].", ge=0.05, le=10.0
    )
    end_on_stale: bool = setting(
        True,
        "Whether a required stream that gets stale ends the episode; otherwise its last sample is held, and the rows "
        "are noted as filled.",
    )
    max_queued_mb: int = setting(
        256, "Memory of the rows that wait for the video encoder [MB]; more wait on disk.", ge=1, le=100000
    )
    dataset_version: str = setting(
        "", "LeRobot format: v2.0, v2.1, v3.0; empty: the dataset's own, v2.1 for a new one."
    )
    video_codec: VideoCodec = setting(VideoCodec.H264, "Video codec of the dataset: h264, hevc or av1.")
    video_encoder: VideoEncoder = setting(VideoEncoder.SOFTWARE, "What encodes: software, or nvenc (NVIDIA's encoder).")
    video_preset: str = setting("", "Encoder preset; empty: a fast one that is visually lossless at the default crf.")
    video_crf: int = setting(20, "Constant rate factor of the video: lower is better and larger.", ge=0, le=51)
    bag: BagScope = setting(BagScope.OFF, "Raw messages kept in <dataset>/.bags: off, configured topics, or all.")
    bag_per: BagPer = setting(BagPer.EPISODE, "A bag per episode, or one per session (activation to deactivation).")
    joy_topic: str = setting("", "Joystick topic (sensor_msgs/msg/Joy); empty: none.")
    joy_start: int = setting(-1, "Button that starts an episode; may be that of joy_stop. -1: none.", ge=-1, le=255)
    joy_stop: int = setting(-1, "Button that ends and keeps the episode. -1: none.", ge=-1, le=255)
    joy_discard: int = setting(-1, "Button that ends and discards the episode. -1: none.", ge=-1, le=255)
    joy_redo: int = setting(-1, "Button that records the running or last episode again. -1: none.", ge=-1, le=255)
    joy_success: int = setting(
        -1, "Button that marks the running or last episode as a success. -1: none.", ge=-1, le=255
    )
    joy_failure: int = setting(
        -1, "Button that marks the running or last episode as a failure. -1: none.", ge=-1, le=255
    )
    joy_debounce_s: float = setting(0.3, "Time in which a button counts only once [s].", ge=0.0, le=5.0)
    autostart: bool = setting(False, "Whether the node configures and activates itself.", read_only=True)

    @property
    def buttons(self) -> dict[Command, int]:
        """Button index of each command."""
        return {command: getattr(self, f"joy_{command.value}") for command in Command}
