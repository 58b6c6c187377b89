# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Control is a lease: one browser has it as long as it says so often enough; everybody else watches.

A browser is known by a secret of its own: it keeps control over a reconnection, and nobody else can speak for it.
"""

from __future__ import annotations

import hashlib

TIMEOUT_S = 1.0  # without a beat


class ControlLease:
    """Who has control; for one thread. Times are on a steady clock."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """Begin with nobody in control."""
        self._timeout_s = timeout_s
        self._holder = ""
        self._beat_s = 0.0
        self.name = ""  # of who has control, for people; empty: nobody

    @property
    def public_id(self) -> str:
        """Names who has control to everybody, without their secret; empty: nobody."""
        return public_id(self._holder) if self._holder else ""

    def has(self, client: str) -> bool:
        """Whether this client has control."""
        return bool(client) and client == self._holder

    def take(self, client: str, name: str, now_s: float) -> str:
        """Give control to a client; return why not, empty if it has it now."""
        if self._holder and client != self._holder:
            return f"{self.name} has control; ask them to release it"
        self._holder, self.name, self._beat_s = client, name, now_s
        return ""

    def beat(self, client: str, now_s: float) -> None:
        """Note that the page of a client is alive; only that of who has control counts."""
        if self.has(client):
            self._beat_s = now_s

    def silence_s(self, now_s: float) -> float:
        """Return the time since the last beat of who has control; zero if nobody has."""
        return now_s - self._beat_s if self._holder else 0.0

    def release(self, client: str) -> bool:
        """Give control back; return whether the client had it."""
        if not self.has(client):
            return False
        self._holder = self.name = ""
        return True

    def expire(self, now_s: float) -> str:
        """End a lease that is silent for too long; return the name of who has lost control, empty if nobody has."""
        if self.silence_s(now_s) <= self._timeout_s:
            return ""
        name = self.name
        self._holder = self.name = ""
        return name


def public_id(client: str) -> str:
    """Return what others may know of a browser's secret."""
    return hashlib.sha256(client.encode()).hexdigest()[:16]
