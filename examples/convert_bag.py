# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert a ROS 2 bag to a dataset, without ROS: what the command `gr00t_convert_bag` does."""

import argparse
import tempfile
from pathlib import Path

from tiny_bag import write_bag

from gr00t_recorder.bag.batch import BatchSettings, convert_bags
from gr00t_recorder.bag.convert import ConversionSettings
from gr00t_recorder.bag.sources import BagSource
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_training.dataset.media.video import VideoSettings


def convert(bag: Path, topics: Path, output: Path, task: str) -> None:
    """Append the bag as one episode; the topic map assigns a field of a topic to each key of the robot."""
    topic_map, embodiment = load_topic_map(topics)
    settings = BatchSettings(
        topic_map=topic_map,
        embodiment=embodiment,
        output=output,
        conversion=ConversionSettings(),
        video=VideoSettings(),
        version=None,
        jobs=1,
    )
    for report in convert_bags([BagSource(bag, (task,))], settings):
        rows = sum(episode.num_frames for episode in report.episodes)
        print(f"{bag.name}: {report.error or f'{len(report.episodes)} episode, {rows} rows written to {output}'}")


def main() -> None:
    """Parse, and convert the given bag or a tiny one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the dataset; an existing one is appended to")
    parser.add_argument("--bag", type=Path, help="folder of a bag (default: a tiny one is written)")
    parser.add_argument("--topics", type=Path, help="topic map of that bag, a YAML file")
    parser.add_argument("--task", default="wave", help="what the robot does in the bag (default: wave)")
    options = parser.parse_args()
    if (options.bag is None) != (options.topics is None):
        parser.error("--bag and --topics belong together; give both or none")
    with tempfile.TemporaryDirectory() as scratch:
        bag, topics = (options.bag, options.topics) if options.bag else write_bag(Path(scratch))
        convert(bag, topics, options.output, options.task)


if __name__ == "__main__":
    main()
