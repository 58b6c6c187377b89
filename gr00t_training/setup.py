# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

package_name = "gr00t_training"

setup(
    name=package_name,
    version=ElementTree.parse(Path(__file__).with_name("package.xml")).findtext("version"),  # the one place
    description="GR00T models, LeRobot datasets, fine-tuning and the policy, without ROS",
    license="Apache-2.0",
    maintainer="GR00T ROS 2 suite contributors",
    maintainer_email="maintainers@users.noreply.github.com",
    # An editable install from the suite's root would else be shadowed by the folder of the same name.
    package_dir={"": "."},
    packages=find_packages(include=[package_name, package_name + ".*"]),
    package_data={
        "gr00t_training": [
            "py.typed",
            "data_configs/*.yaml",
            "dataset/view/*.css",
            "dataset/view/*.html",
            "dataset/view/*.js",
            "embodiments/*.yaml",
            "judge/*.css",
            "tokenizers/*/*.json",
            "recipes/*.yaml",
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    python_requires=">=3.10",
    install_requires=[
        "numpy>=1.26",
        "PyYAML>=6",
        "pyarrow>=14",
        "av>=14",  # ffmpeg 7.1: videos that a kill leaves readable
    ],
    extras_require={
        "test": ["pytest"],
        "hub": ["huggingface_hub>=0.24"],
        "transformers": ["transformers>=5.17", "sentencepiece>=0.2"],
        "view": ["rerun-sdk>=0.24"],
        "distributed": ["accelerate>=1.15"],
        "serve": [
            "msgpack>=1.0",
        ],
        "ray": ["ray[serve]>=2.40"],
        "metrics": ["prometheus_client>=0.20"],
        "model": [
            "torch>=2.4",
            "safetensors>=0.4",
            "tokenizers>=0.20",
            "opencv-python-headless>=4.8",
            "Pillow>=9.1",
        ],
        "lora": [
            "peft>=0.17",
            "accelerate>=1.0",
            "bitsandbytes>=0.45",
        ],
        "train": [
            "torch>=2.4",
            "safetensors>=0.4",
            "tokenizers>=0.20",
            "opencv-python-headless>=4.8",
            "Pillow>=9.1",
            "tensorboard>=2.14",
            "tqdm>=4.60",
            "matplotlib>=3.7",
        ],
    },
    entry_points={
        "console_scripts": [
            "gr00t = gr00t_training.cli.commands:umbrella",
            "gr00t_checkpoint = gr00t_training.cli.commands:checkpoint",
            "gr00t_dataset = gr00t_training.cli.commands:dataset",
            "gr00t_doctor = gr00t_training.cli.commands:doctor",
            "gr00t_finetune = gr00t_training.cli.commands:finetune",
            "gr00t_evaluate = gr00t_training.cli.commands:evaluate",
            "gr00t_serve = gr00t_training.cli.commands:serve",
        ],
        "gr00t.commands": ["gr00t_training = gr00t_training.cli.commands:COMMANDS"],
    },
    zip_safe=False,
)
