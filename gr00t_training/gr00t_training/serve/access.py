# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Who may talk to a policy server: addresses and tokens.

A token travels unencrypted: it keeps others of a laboratory's network away, not someone who listens to it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

from gr00t_training.errors import ConfigError

TOKEN_VARIABLE = "GR00T_API_TOKEN"


def find_token(token: str | None = None, file: str | Path | None = None) -> str | None:
    """Return the token that is given, else that of the file, else that of the environment variable, else None.

    Raises:
        ConfigError: the file cannot be read, or the token is empty.
    """
    source = "token"
    if token is None and file is not None:
        source = str(file)
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: token cannot be read ({error}); check the path") from error
    if token is None and TOKEN_VARIABLE in os.environ:
        source, token = TOKEN_VARIABLE, os.environ[TOKEN_VARIABLE].strip()
    if token == "":
        raise ConfigError(f"{source}: is empty, expected a token; write one or leave it out")
    return token


def bind_address(host: str) -> str:
    """Return the numeric address of a network interface of this machine; "*" is all of them.

    Raises:
        ConfigError: the name is unknown.
    """
    if host == "*":
        return "0.0.0.0"
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"host '{host}': unknown ({error}); use 127.0.0.1, or an address of this machine") from error
    addresses = [str(entry[4][0]) for entry in found]
    return next((address for address in addresses if ":" not in address), addresses[0])


def tcp_address(host: str, port: int | str) -> str:
    """Return the ZeroMQ address; IPv6 numbers get their brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def check_exposure(address: str, token: str | None, is_insecure: bool) -> None:
    """Refuse to listen to other machines without a token.

    Raises:
        ConfigError: `address` is not of the loopback interface, there is no token, and `is_insecure` is not set.
    """
    if token is None and not is_insecure and not ipaddress.ip_address(address.split("%")[0]).is_loopback:
        raise ConfigError(
            f"host {address}: other machines could use the policy without a token; give one ({TOKEN_VARIABLE} or "
            "--token-file), listen at 127.0.0.1, or pass --insecure"
        )
