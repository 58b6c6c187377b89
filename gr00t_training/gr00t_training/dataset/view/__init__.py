# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets as people see them: a summary, a card, a page in the browser, a recording for Rerun."""
