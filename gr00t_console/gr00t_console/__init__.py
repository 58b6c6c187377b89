# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Operator page: watch and operate a robot, its recorder and its policy in a browser.

One process next to the nodes. It uses the services, actions and topics that everybody may use, so the nodes neither
know nor need it. Only `ros` knows ROS; `server` is the web server, `operator` decides who may do what.
"""
