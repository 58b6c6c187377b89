# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Programs that a check runs in a Python of its own: each prints one line of JSON, and may crash or hang."""
