# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Making new datasets from existing ones without decoding what need not be decoded.

Every operation is the same sentence: read the episodes of some datasets (`source`), say which rows of which to keep and
what their tasks are (`operations`, `trim`), write a dataset of them (`output`) in a new folder that gets its name when
it is complete (`exchange`). Video moves by the file or by the packet (`packets`).
"""
