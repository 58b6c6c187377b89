# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the suite.

    Gr00tError
    ├── ConfigError        a YAML file, parameter or option is wrong
    ├── DatasetError       a dataset or bag on disk is wrong, damaged or cannot be written
    ├── CheckpointError    a checkpoint is incomplete, damaged or of another embodiment
    ├── ObservationError   an input of the policy is missing, stale or of the wrong form
    └── ServerError        a policy server cannot be reached, refuses, or exchanges malformed messages

Every message names the subject, what was found, what was expected and the remedy.
"""


class Gr00tError(Exception):
    """Base of every error this suite raises on purpose."""


class ConfigError(Gr00tError):
    """A configuration file, parameter or option is wrong."""


class DatasetError(Gr00tError):
    """A dataset or bag is wrong, damaged or cannot be written."""


class CheckpointError(Gr00tError):
    """A checkpoint is incomplete, damaged or belongs to another embodiment."""


class ObservationError(Gr00tError):
    """An observation is missing an input, or an input is stale or malformed."""


class ServerError(Gr00tError):
    """A policy server cannot be reached, refused a request, or a message from or to one is malformed."""
