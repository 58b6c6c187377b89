# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Metadata and tables of a dataset of any writer: one form for all users, or an error that names the file.

Differences between writers (numbers as text, other list types, other names of axes, lists of one) are normalized here
and nowhere else; values that need no change are returned as they are, so that editing copies them as stored.
"""
