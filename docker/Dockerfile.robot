# syntax=docker/dockerfile:1
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# Recorder, policy node, simulated robot and launch files on a ROS 2 installation.
#   docker build -f docker/Dockerfile.robot -t gr00t-robot .
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base
ARG ROS_DISTRO
SHELL ["/bin/bash", "-c"]

RUN apt-get update && apt-get install -y --no-install-recommends \
      libegl1 libgl1 python3-matplotlib python3-numpy python3-opencv python3-pip python3-venv python3-yaml \
      ros-${ROS_DISTRO}-control-msgs ros-${ROS_DISTRO}-diagnostic-msgs ros-${ROS_DISTRO}-rmw-fastrtps-cpp \
      ros-${ROS_DISTRO}-trajectory-msgs \
    && rm -rf /var/lib/apt/lists/*

# Libraries that ROS does not package go into an environment on top of the system's Python.
COPY requirements-workspace.txt /tmp/
RUN python3 -m venv --system-site-packages /opt/gr00t \
    && /opt/gr00t/bin/pip install --no-cache-dir -r /tmp/requirements-workspace.txt

WORKDIR /workspace
COPY gr00t_msgs src/gr00t_msgs
COPY gr00t_training src/gr00t_training
COPY gr00t_recorder src/gr00t_recorder
COPY gr00t_policy_node src/gr00t_policy_node
COPY gr00t_bringup src/gr00t_bringup
RUN source /opt/ros/${ROS_DISTRO}/setup.bash && colcon build --packages-up-to gr00t_bringup

ENV FASTRTPS_DEFAULT_PROFILES_FILE=/workspace/src/gr00t_bringup/gr00t_bringup/config/fastdds.xml
COPY docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
# `docker stop` sends SIGTERM otherwise, which ends launch without its nodes
STOPSIGNAL SIGINT
CMD ["ros2", "launch", "gr00t_bringup", "policy.launch.py", "--show-args"]
