#!/bin/bash
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# Build the packages below ./src, as `colcon build` with the same options does:
#   build_workspace.sh --packages-up-to gr00t_console
set -eo pipefail # not -u: the setup files of ROS read variables that are not set
# shellcheck source=/dev/null
source "${ROS_SETUP:-/opt/ros/${ROS_DISTRO}/setup.bash}"
exec colcon build --event-handlers console_direct+ "$@"
