# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Builders and pytest fixtures that the tests and benches of all packages share; the product never imports it."""
