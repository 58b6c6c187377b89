#!/bin/bash
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# Print the pip requirements of an image:
#   requirements.sh train requirements-run.txt               without ROS and simulator
#   requirements.sh jetson requirements-workspace.txt 2.8.0  with the torch that NVIDIA builds for Jetson
set -euo pipefail
image=$1
file=$2
case "${image}" in
  train) grep -v -e '^ros-' -e '^mujoco' "${file}" ;;
  jetson) sed -e "s/^torch==.*/torch==${3}/" "${file}" ;;
  *)
    echo "requirements.sh: image is '${image}', expected train or jetson" >&2
    exit 2
    ;;
esac
