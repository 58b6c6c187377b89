# syntax=docker/dockerfile:1
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# Recorder, policy node, operator page, simulated robot and launch files on a ROS 2 installation.
#   docker build -f docker/Dockerfile.robot -t gr00t-robot .
# The tag moves with ROS's updates; for the same image again, give a digest: --build-arg BASE=ros@sha256:...
ARG ROS_DISTRO=jazzy
ARG BASE=ros:${ROS_DISTRO}-ros-base
FROM ${BASE}
ARG ROS_DISTRO
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Of apt only the newest version of a package of ROS exists. The compiler's headers are for Triton, which builds kernels.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends \
      libegl1 libgl1 python3-dev python3-matplotlib python3-numpy python3-opencv python3-pip python3-venv python3-yaml \
      "ros-${ROS_DISTRO}-control-msgs" "ros-${ROS_DISTRO}-diagnostic-msgs" "ros-${ROS_DISTRO}-rmw-fastrtps-cpp" \
      "ros-${ROS_DISTRO}-trajectory-msgs" \
    && rm -rf /var/lib/apt/lists/*

COPY docker/make_user.sh docker/make_environment.sh docker/build_workspace.sh docker/entrypoint.sh /opt/scripts/
RUN /opt/scripts/make_user.sh gr00t 1000
COPY requirements-workspace.txt /tmp/
RUN /opt/scripts/make_environment.sh /opt/gr00t /tmp/requirements-workspace.txt

WORKDIR /workspace
COPY gr00t_msgs src/gr00t_msgs
COPY gr00t_training src/gr00t_training
COPY gr00t_recorder src/gr00t_recorder
COPY gr00t_policy_node src/gr00t_policy_node
COPY gr00t_bringup src/gr00t_bringup
COPY gr00t_console src/gr00t_console
RUN /opt/scripts/build_workspace.sh --packages-up-to gr00t_console

# The first is for Fast DDS 2 (Humble, Jazzy), the second for Fast DDS 3 (Kilted, Lyrical).
ENV FASTRTPS_DEFAULT_PROFILES_FILE=/workspace/src/gr00t_bringup/gr00t_bringup/config/fastdds.xml \
    FASTDDS_DEFAULT_PROFILES_FILE=/workspace/src/gr00t_bringup/gr00t_bringup/config/fastdds.xml \
    HOME=/home/gr00t
USER 1000
ENTRYPOINT ["/opt/scripts/entrypoint.sh"]
# `docker stop` sends SIGTERM otherwise, which ends launch without its nodes
STOPSIGNAL SIGINT
CMD ["ros2", "launch", "gr00t_bringup", "policy.launch.py", "--show-args"]
