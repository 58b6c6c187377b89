#!/bin/bash
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# Create a virtual environment on top of the system's Python, where ROS is, and install libraries that ROS does not package:
#   make_environment.sh FOLDER REQUIREMENTS [pip options ...]
set -euo pipefail
folder=$1
file=$2
shift 2
python3 -m venv --system-site-packages "${folder}"
"${folder}/bin/pip" install --no-cache-dir --disable-pip-version-check -r "${file}" "$@"
