# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a policy server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gr00t_training.serve.wire import Wire
from gr00t_training.settings import setting


class WireChoice(str, Enum):
    """Message format that a server accepts."""

    AUTO = "auto"
    N1_5 = Wire.N1_5.value
    N1_7 = Wire.N1_7.value


@dataclass(frozen=True)
class ServerSettings:
    """Address and permissions of a policy server."""

    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0: all interfaces, which needs a token.")
    port: int = setting(5555, "TCP port; 0: any free one.", ge=0, le=65535)
    wire: WireChoice = setting(WireChoice.AUTO, "Message format; auto: that of each request.")
    allow_kill: bool = setting(False, "Whether a client may end the server.")
    metrics_port: int = setting(0, "TCP port of Prometheus metrics, on loopback; 0: none.", ge=0, le=65535)
    insecure: bool = setting(False, "Whether other machines may use the policy without a token.")
    max_request_mib: int = setting(64, "Largest request [MiB].", ge=1, le=2048)
    max_batch: int = setting(32, "Most samples computed together, of one request or of several.", ge=1, le=1024)
    max_wait_ms: float = setting(
        2.0, "Longest time that a free GPU waits for requests that are still being decoded [ms].", ge=0.0, le=1000.0
    )
