#!/bin/bash
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
set -e
# shellcheck source=/dev/null
source "${ROS_SETUP:-/opt/ros/${ROS_DISTRO}/setup.bash}"
# shellcheck source=/dev/null
source "${WORKSPACE:-/workspace}/install/setup.bash"
# the environment's libraries for nodes that start with the system's Python
libraries=$(echo "${ENVIRONMENT:-/opt/gr00t}"/lib/python3.*/site-packages)
export PYTHONPATH="${libraries}:${PYTHONPATH}"
# ros2 launch refuses an argument without a value; here it is one that was not given
words=()
for word in "$@"; do
  [[ "${word}" == ?*:= ]] || words+=("${word}")
done
exec "${words[@]}"
