#!/bin/bash
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# Let apt know the packages of ROS 2, for a base image without them:
#   add_ros_repository.sh jammy [FOLDER with etc/ and usr/, instead of /] [URL or file of the key]
set -euo pipefail
release=$1
root=${2:-}
key=${3:-https://raw.githubusercontent.com/ros/rosdistro/master/ros.key}
keyring=/usr/share/keyrings/ros-archive-keyring.gpg
mkdir -p "${root}/usr/share/keyrings" "${root}/etc/apt/sources.list.d"
curl --fail --silent --show-error --location "${key}" --output "${root}${keyring}"
echo "deb [arch=$(dpkg --print-architecture) signed-by=${keyring}] http://packages.ros.org/ros2/ubuntu ${release} main" \
  > "${root}/etc/apt/sources.list.d/ros2.list"
