# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Names in the folder of a run, for those who read its curves without torch."""

LOG_FOLDER = "logs"
EVENT_FILES = "events.out.tfevents.*"  # of TensorBoard, in LOG_FOLDER
LAST_STEP = "run/last_step"  # tag of the number of steps that the run is going to have
