#!/bin/bash
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
# Create the user that an image runs as, in place of one that has its number (Ubuntu's images have 'ubuntu', 1000):
#   make_user.sh NAME NUMBER [FOLDER with etc/, instead of /]
# Anybody may write to its home, so that `docker run --user` works with the number of the host's user, too.
set -euo pipefail
name=$1
number=$2
root=${3:-}
prefix=()
[[ -z "${root}" ]] || prefix=(--prefix "${root}")
taken=$(awk -F: -v number="${number}" '$3 == number {print $1}' "${root}/etc/passwd")
[[ -z "${taken}" ]] || userdel "${prefix[@]}" "${taken}"
useradd "${prefix[@]}" --uid "${number}" --home-dir "/home/${name}" --shell /bin/bash "${name}"
mkdir -p "${root}/home/${name}"
chmod 1777 "${root}/home/${name}"
