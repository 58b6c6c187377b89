# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Access to a policy server: addresses and tokens.

A token is sent unencrypted: it protects against other users of a network, not against someone who records its traffic.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
import stat
from pathlib import Path

from gr00t_training.errors import ConfigError
from gr00t_training.io.files import open_regular

TOKEN_VARIABLE = "GR00T_API_TOKEN"
MAX_TOKEN_BYTES = 1024
MAX_TOKEN_FILE_BYTES = 4096


def find_token(token: str | None = None, file: str | Path | None = None) -> str | None:
    """Return the given token, or that of the file, or that of the environment variable, or None.

    Raises:
        ConfigError: the file cannot be read or others can read it too, or the token is empty or too long.
    """
    source = "token"
    if token is None and file is not None:
        source = str(file)
        token = _read_token(Path(file))
    if token is None and TOKEN_VARIABLE in os.environ:
        source, token = TOKEN_VARIABLE, os.environ[TOKEN_VARIABLE].strip()
    if token == "":
        raise ConfigError(f"{source}: is empty, expected a token; write one or leave it out")
    if token is not None and len(token.encode()) > MAX_TOKEN_BYTES:
        raise ConfigError(
            f"{source}: token of {len(token.encode())} bytes (limit {MAX_TOKEN_BYTES}); is it the right one?"
        )
    return token


def token_matches(found: str | None, expected: str) -> bool:
    """Whether a client's token is the expected one, compared in constant time."""
    return found is not None and hmac.compare_digest(found.encode(errors="replace"), expected.encode())


def _read_token(file: Path) -> str:
    with open_regular(file, ConfigError, MAX_TOKEN_FILE_BYTES) as opened:
        mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            raise ConfigError(
                f"{file}: other users can read the token (mode {mode:04o}, expected 0600); run 'chmod 600 {file}', and "
                "choose another token if others may have seen it"
            )
        content = opened.read(MAX_TOKEN_FILE_BYTES)
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: token is not UTF-8 text; write one line of text") from error


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
    """Return the ZeroMQ address; an IPv6 address gets brackets."""
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
