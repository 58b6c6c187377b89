# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Make new datasets from existing ones; video is decoded only where it has to be.

Every operation has three steps: read the episodes of some datasets (`source`), choose rows and tasks to keep
(`operations`, `trim`), write them as a dataset (`output`) into a new folder that gets its name when it is complete
(`exchange`). Video is copied as files or as packets (`media.packets`).
"""
